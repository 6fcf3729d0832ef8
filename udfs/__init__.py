if __name__ != "libstream.udfs":  # not "udfs": one class, one module
    raise ImportError("import libstream.udfs, not udfs")
