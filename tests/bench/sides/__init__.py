"""One module for each side; run with the interpreter of that side's environment. See `tests.bench.sides.serve`."""
