"""Messages of DECTRIS stream V2 as other senders write them: cbor2, bitshuffle and lz4."""

from __future__ import annotations

from typing import Any

import bitshuffle
import cbor2
import lz4.block
import numpy as np
from cbor2 import CBORTag

from libstream.io_backends.streams._dectris_v2 import V2Decoder
from tests.live import dectris_messages as d

MAGIC = b"\xd9\xd9\xf7"
TAGS = {"u1": 64, ">u2": 65, ">u4": 66, ">u8": 67, "<u2": 69, "<u4": 70, "<u8": 71, "i1": 72, ">i2": 73, ">i4": 74, "<i2": 77, "<i4": 78}
TAGS |= {">f4": 81, ">f8": 82, "<f2": 84, "<f4": 85, "<f8": 86}


def framed_lz4(raw: bytes, block: int = 512) -> bytes:
    """LZ4 in HDF5's framing, by the lz4 package."""
    out = len(raw).to_bytes(8, "big") + block.to_bytes(4, "big")
    for at in range(0, len(raw), block):
        piece = raw[at : at + block]
        small = lz4.block.compress(piece, store_size=False)
        small = small if len(small) < len(piece) else piece
        out += len(small).to_bytes(4, "big") + small
    return out


def array(frame: np.ndarray, how: str = "none", kind: str = "", tag: int = 40) -> CBORTag:
    """An array as senders write it, by cbor2."""
    kind = kind or frame.dtype.newbyteorder("<").str.replace("|", "")
    raw = frame.astype(kind)
    width = raw.dtype.itemsize
    if how == "none":
        values: Any = raw.tobytes()
    elif how == "lz4":
        values = CBORTag(56500, ["lz4", 0, framed_lz4(raw.tobytes())])
    else:
        shuffled = bytes(bitshuffle.compress_lz4(raw.reshape(-1).view(f"u{width}")))
        head = raw.nbytes.to_bytes(8, "big") + (8192 // width // 8 * 8 * width).to_bytes(4, "big")
        values = CBORTag(56500, ["bslz4", width, head + shuffled])
    return CBORTag(tag, [list(frame.shape), CBORTag(TAGS[kind], values)])


def image(number: int, data: Any, *, run: int = 7, magic: bool = True, **more: Any) -> bytes:
    fields = {
        "type": "image",
        "series_id": run,
        "series_unique_id": "01HBV3JPF9T4ZDPADX8EMK6XMZ",
        "image_id": number,
        "real_time": [50_000, 50_000_000],
        "series_date": CBORTag(0, "2023-10-04T14:55:53.000Z"),
        "start_time": [number * 50_000, 50_000_000],
        "stop_time": [number * 50_000 + 50_000, 50_000_000],
        "user_data": "",
        "data": data,
    }
    fields |= more
    return (MAGIC if magic else b"") + cbor2.dumps({k: v for k, v in fields.items() if v is not KeyError})


START: dict[str, Any] = {
    "type": "start",
    "series_id": 7,
    "series_unique_id": "01HBV3JPF9T4ZDPADX8EMK6XMZ",
    "arm_date": CBORTag(0, "2023-10-04T14:55:53.000Z"),
    "beam_center_x": 11.5,
    "channels": ["threshold_1", "threshold_2"],
    "count_time": 0.0009,
    "detector_translation": [0.0, 0.0, -0.15],
    "frame_time": 0.001,
    "goniometer": {"chi": {"increment": 0.0, "start": 0.0}},
    "image_dtype": "uint16",
    "image_size_x": 24,
    "image_size_y": 16,
    "number_of_images": 12,
    "pixel_size_x": 7.5e-05,
    "pixel_size_y": 15e-05,
    "saturation_value": 65534,
    "threshold_energy": {"threshold_1": 20000.0, "threshold_2": 40000.0},
    "user_data": None,
}
END = MAGIC + cbor2.dumps({"type": "end", "series_id": 7, "series_unique_id": "01HBV3JPF9T4ZDPADX8EMK6XMZ"})


def start(*, magic: bool = True, **more: Any) -> bytes:
    return (MAGIC if magic else b"") + cbor2.dumps({k: v for k, v in {**START, **more}.items() if v is not KeyError})


def tagged(tag: CBORTag, *_: Any) -> Any:
    """What a reader of DECTRIS' documentation makes of the tags: arrays, decompressed by bitshuffle and lz4."""
    if tag.tag == 56500:
        name, width, blob = tag.value
        total, block = int.from_bytes(blob[:8], "big"), int.from_bytes(blob[8:12], "big")
        if name == "bslz4":
            count = total // width
            kind = np.dtype(f"u{width}")
            return bitshuffle.decompress_lz4(np.frombuffer(blob[12:], np.uint8), (count,), kind, block // width).tobytes()
        raw, at = b"", 12
        while len(raw) < total:
            n, size = int.from_bytes(blob[at : at + 4], "big"), min(block, total - len(raw))
            piece = blob[at + 4 : at + 4 + n]
            raw += piece if n == size else lz4.block.decompress(piece, uncompressed_size=size)
            at += 4 + n
        return raw
    if tag.tag in TAGS.values():
        return np.frombuffer(tag.value, next(k for k, v in TAGS.items() if v == tag.tag))
    if tag.tag == 40:
        shape, values = tag.value
        return values.reshape(shape)
    return tag


def events(decoder: V2Decoder, data: bytes) -> list[Any]:
    return list(decoder.feed(d.views([data])))


def one(decoder: V2Decoder, data: bytes) -> Any:
    (event,) = events(decoder, data)
    return event
