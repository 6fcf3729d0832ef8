"""pytest plug-in: the code under test is that of the copy, not the one that is installed; a found fault is not made smaller."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis

hypothesis.settings.register_profile(
    "mutants", deadline=None, max_examples=40, derandomize=True, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)


def pytest_configure() -> None:
    """Fail (exit code 3) where libstream comes from elsewhere."""
    import libstream
    import libstream.executors.threads as threads

    root = Path(os.environ["LIBSTREAM_MUTANT"]).resolve()
    for module in (libstream, threads):
        found = Path(str(module.__file__)).resolve()
        assert found.is_relative_to(root), f"{found} was imported, the copy is in {root}"
