"""Protocols and base classes that plug-ins implement. `libstream.ext` is the door to them."""
