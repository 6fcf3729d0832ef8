"""Every choice of a run, made by functions of plain data: no file is touched and nothing is computed here."""
