"""Zstandard payloads, by the library of Python 3.14 or its backport: not compiled here, and one payload at a time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from libstream.codecs._kernels import LENGTH, OK, PLACE
from libstream.errors import NotInstalledError

_Arr = np.ndarray[Any, Any]
_WINDOW_LOG = 25
"""Memory of a decoder, as a power of two of bytes; what a payload asks beyond is refused."""


@functools.cache
def module() -> Any:
    """The module. Raises NotInstalledError."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise NotInstalledError(
                "the codec zstd needs Python 3.14 or the package backports.zstd: pip install 'libstream[detectors]'"
            ) from None
    return zstd


def decode_parts(src: _Arr, at: _Arr, size: _Arr, total: int, first: int, last: int, out: _Arr, to: _Arr, status: _Arr) -> None:
    """Bytes [first, last) of the `total` bytes of payload i to out[to[i] :], for all i; never more memory than `total` and a window."""
    zstd = module()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    for i, (ip, n, p) in enumerate(zip(at.tolist(), size.tolist(), to.tolist(), strict=True)):
        if not (0 <= ip <= src.size and 0 <= n <= src.size - ip):
            status[i] = PLACE
            continue
        decoder, raw = zstd.ZstdDecompressor(options=options), b""
        try:
            raw = decoder.decompress(src[ip : ip + n], max_length=total + 1)
        except zstd.ZstdError:
            pass
        good = len(raw) == total and decoder.eof and not decoder.unused_data
        if good:
            out[p : p + last - first] = np.frombuffer(raw, np.uint8)[first:last]
        status[i] = OK if good else LENGTH


def encode(raw: _Arr) -> bytes:
    """One frame of zstd; fast, as a detector would."""
    done: bytes = module().compress(raw, level=1)
    return done
