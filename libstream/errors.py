"""Every error that libstream raises on purpose.

A message says what happened, where, what was expected, what was found, and what to do next. Each class also derives
from the built-in error that a Python user would expect.
"""

from __future__ import annotations


class LibstreamError(Exception):
    """Base of all errors raised by libstream."""


class UsageError(LibstreamError, ValueError):
    """A call, an option or a parameter that cannot work as given."""


class ShapeError(UsageError):
    """Shapes that do not fit together: a region of interest, a scan, a frame, an output."""


class ParameterError(UsageError):
    """A parameter of a UDF that is unknown, of the wrong type or out of its limits."""


class NotInstalledError(LibstreamError, ImportError):
    """A part of libstream whose optional dependency is missing; names the extra to install."""


class FormatError(LibstreamError, ValueError):
    """A file that is not what it claims to be, or of a kind that nobody here can read."""


class CorruptFileError(FormatError):
    """A file of a known kind that is damaged or incomplete."""


class CodecError(FormatError):
    """Compressed data that cannot be decoded: damaged, or not what was announced."""


class WireError(FormatError):
    """A message that is not what its protocol allows: damaged, hostile, or of another version. Counted, never fatal."""


class NotArmed(LibstreamError, RuntimeError):
    """A live source was asked for something that only an acquisition has: no header has arrived yet."""


class SourceChangedError(LibstreamError, OSError):
    """A file that was changed, shortened or deleted after it was opened."""


class UDFError(LibstreamError, RuntimeError):
    """The code of a UDF failed. The original exception is `__cause__`.

    Args:
        message: what went wrong and what to do.
        udf: key of the UDF in the run.
        where: the place in the data, in words.
        remote_traceback: text of the traceback when the code ran in another process.
    """

    def __init__(self, message: str, *, udf: str = "", where: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.udf = udf
        self.where = where
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[object, ...]:
        return (_udf_error, (self.args[0], self.udf, self.where, self.remote_traceback))


def _udf_error(message: str, udf: str, where: str, remote_traceback: str) -> UDFError:
    return UDFError(message, udf=udf, where=where, remote_traceback=remote_traceback)


class WorkerLostError(LibstreamError, RuntimeError):
    """A worker process died more often than a partition may be tried again."""


class SaveError(LibstreamError, OSError):
    """A result could not be written; nothing half-written was left behind."""


class CancelledError(LibstreamError):
    """The run was cancelled; what was finished is in `partial`."""

    def __init__(self, message: str, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial
