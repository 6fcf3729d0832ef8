"""Compiled code: the one `@kernel`, the loops generated around kernels, shared reductions. Numba is imported at first use."""
