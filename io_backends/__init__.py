if __name__ != "libstream.io_backends":  # not "io_backends": one class, one module
    raise ImportError("import libstream.io_backends, not io_backends")
