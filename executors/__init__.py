if __name__ != "libstream.executors":  # not "executors": one class, one module
    raise ImportError("import libstream.executors, not executors")
