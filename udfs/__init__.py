"""Built-in UDFs: `ls.udfs.Sum()`. Each module is imported when one of its classes is asked for."""

if __name__ != "libstream.udfs":  # not "udfs": one class, one module
    raise ImportError("import libstream.udfs, not udfs")

import typing as _typing

if _typing.TYPE_CHECKING:
    from libstream.udfs.com import CenterOfMass as CenterOfMass
    from libstream.udfs.fem import FEM as FEM
    from libstream.udfs.frames import Pick as Pick
    from libstream.udfs.frames import Record as Record
    from libstream.udfs.histogram import FrameHistogram as FrameHistogram
    from libstream.udfs.mapping import FrameMap as FrameMap
    from libstream.udfs.maxima import LocalMaxima as LocalMaxima
    from libstream.udfs.radial import RadialProfile as RadialProfile
    from libstream.udfs.statistics import LogSum as LogSum
    from libstream.udfs.statistics import Max as Max
    from libstream.udfs.statistics import Mean as Mean
    from libstream.udfs.statistics import Min as Min
    from libstream.udfs.statistics import StdDev as StdDev
    from libstream.udfs.statistics import Variance as Variance
    from libstream.udfs.sums import FrameTotals as FrameTotals
    from libstream.udfs.sums import Sum as Sum
    from libstream.udfs.virtual import VirtualDetector as VirtualDetector

_FROM = {
    "com": ("CenterOfMass",),
    "fem": ("FEM",),
    "frames": ("Pick", "Record"),
    "histogram": ("FrameHistogram",),
    "mapping": ("FrameMap",),
    "maxima": ("LocalMaxima",),
    "radial": ("RadialProfile",),
    "statistics": ("LogSum", "Max", "Mean", "Min", "StdDev", "Variance"),
    "sums": ("FrameTotals", "Sum"),
    "virtual": ("VirtualDetector",),
}
_HOME = {name: f"libstream.udfs.{module}" for module, names in _FROM.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605  a list of texts, built from the table


if not _typing.TYPE_CHECKING:  # or checkers would accept any name

    def __getattr__(name: str) -> _typing.Any:
        import importlib

        if name not in _HOME:
            raise AttributeError(f"module 'libstream.udfs' has no attribute {name!r}; built-in UDFs are {', '.join(__all__)}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
