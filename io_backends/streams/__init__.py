"""Detectors whose frames come over a network, one a file."""
