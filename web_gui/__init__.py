"""The page and its server. It knows `libstream.jobs`, the model and the errors, and nothing else of libstream."""

if __name__ != "libstream.web_gui":  # not "web_gui": one class, one module
    raise ImportError("import libstream.web_gui, not web_gui")
