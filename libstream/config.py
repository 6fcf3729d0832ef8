"""Settings from the environment: one place, read when used.

`LIBSTREAM_CACHE_DIR`: compiled kernels (default: the user's cache folder).
`LIBSTREAM_STATE_DIR`: setups of `libstream serve`, and what it had open last (default: the user's folder for such things).
`LIBSTREAM_THREADS`: workers of the default executor (default: the processors this process may use).
`LIBSTREAM_SLURM_CONFIG`: settings of the executor slurm (default: slurm.toml in the user's folder of settings, where it is there).
`LIBSTREAM_DETECTORS`: detectors that `libstream serve` offers (default: detectors.toml in the same folder).
`LIBSTREAM_DEBUG`: "1" runs every kernel once with bounds checks at bind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Folder for compiled kernels; created when something is stored in it."""
    if given := os.environ.get("LIBSTREAM_CACHE_DIR"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "libstream"


def state_dir() -> Path:
    """Folder for what a server keeps; created when something is stored in it."""
    if given := os.environ.get("LIBSTREAM_STATE_DIR"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    return base / "libstream"


def slurm_config() -> Path | None:
    """File of settings of the executor slurm, or None where there is none. One that the environment names need not exist."""
    if given := os.environ.get("LIBSTREAM_SLURM_CONFIG"):
        return Path(given)
    return _settings("slurm.toml")


def detectors_file() -> Path | None:
    """File of configured detectors, or None where there is none. One that the environment names need not exist."""
    if given := os.environ.get("LIBSTREAM_DETECTORS"):
        return Path(given)
    return _settings("detectors.toml")


def _settings(name: str) -> Path | None:
    file = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "libstream" / name
    return file if file.is_file() else None


def n_workers() -> int:
    """Number of workers of the default executor."""
    if given := os.environ.get("LIBSTREAM_THREADS"):
        return max(1, int(given))
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def debug() -> bool:
    """True when kernels are to be run once with bounds checks at bind."""
    return os.environ.get("LIBSTREAM_DEBUG", "") not in ("", "0")
