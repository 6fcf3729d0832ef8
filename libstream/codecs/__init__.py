"""Encodings of detectors: buffers in, buffers out, no input or output. For stored files and for the wire."""
