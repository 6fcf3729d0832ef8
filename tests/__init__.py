"""Tests of libstream; helpers shared by them are imported as `tests.<name>`."""
