"""Benchmarks: `python -m tests.bench`. Every side (libstream, the read limit, the peers) is a process of its own."""
