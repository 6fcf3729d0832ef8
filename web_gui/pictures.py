"""PNG and TIFF files of arrays, without further packages. Pure."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.model.picture import MAPS, UNSEEN, grey, png

__all__ = ["MAPS", "UNSEEN", "grey", "png", "tiff"]

_Arr = np.ndarray[Any, Any]


def tiff(values: _Arr, description: str = "") -> bytes:
    """Uncompressed TIFF of one image (h, w) in its own dtype (bool as uint8, float16 as float32), with a description in UTF-8."""
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise UsageError(f"only images of real numbers can be written as TIFF, this has the shape {values.shape} and dtype {values.dtype}")
    if values.dtype.kind == "b" or values.dtype == np.float16:
        values = values.astype(np.uint8 if values.dtype.kind == "b" else np.float32)
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    if len(data) > 0xF000_0000:
        raise UsageError(f"an image of {len(data)} bytes is too large for TIFF")
    text = description.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    text_at = 8
    data_at = text_at + len(text)
    directory_at = data_at + len(data) + len(data) % 2
    short, long, ascii_ = 3, 4, 2
    tags = [
        (256, long, 1, values.shape[1]), (257, long, 1, values.shape[0]), (258, short, 1, values.dtype.itemsize * 8), (259, short, 1, 1),
        (262, short, 1, 1), (270, ascii_, len(text), text_at if len(text) > 4 else int.from_bytes(text.ljust(4, b"\0"), "little")),
        (273, long, 1, data_at), (277, short, 1, 1), (278, long, 1, values.shape[0]), (279, long, 1, len(data)), (339, short, 1, sample),
    ]  # fmt: skip
    out = struct.pack("<2sHI", b"II", 42, directory_at) + text + data + b"\0" * (len(data) % 2) + struct.pack("<H", len(tags))
    return out + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
