if __name__ != "libstream.web_gui":  # not "web_gui": one class, one module
    raise ImportError("import libstream.web_gui, not web_gui")
