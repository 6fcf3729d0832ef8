"""Messages of DECTRIS stream V1 as detectors and other senders write them; pixels packed by bitshuffle and lz4."""

from __future__ import annotations

import json
from typing import Any

import bitshuffle
import lz4.block
import numpy as np

from libstream.io_backends.streams._dectris_v1 import V1Decoder
from tests.live import dectris_messages as d

END = b'{"htype":"dseries_end-1.0","series":7}'
CONFIG: dict[str, Any] = {
    "bit_depth_image": 16,
    "detector_distance": 0.0,
    "frame_time": 0.002,
    "nimages": 1,
    "ntrigger": 12,
    "trigger_mode": "exte",
    "x_pixel_size": 7.5e-05,
    "x_pixels_in_detector": 24,
    "y_pixel_size": 7.5e-05,
    "y_pixels_in_detector": 16,
}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def head(detail: str = "basic", series: int = 7) -> bytes:
    return text({"htype": "dheader-1.0", "header_detail": detail, "series": series})


def image(frame: int, blob: bytes, encoding: str = "<", dtype: str = "uint16", shape: Any = (24, 16), series: int = 7) -> list[bytes]:
    return [
        text({"htype": "dimage-1.0", "series": series, "frame": frame, "hash": "fc67f000d08fe6b380ea9434b8362d22"}),
        text({"htype": "dimage_d-1.0", "shape": list(shape), "type": dtype, "encoding": encoding, "size": len(blob)}),
        blob,
        text({"htype": "dconfig-1.0", "start_time": 5_000_000, "stop_time": 6_000_000, "real_time": 1_000_000}),
    ]


def one(decoder: V1Decoder, parts: list[bytes]) -> Any:
    (event,) = decoder.feed(d.views(parts))
    return event


def tables() -> list[bytes]:
    mask = np.zeros((16, 24), "<u4")
    mask[3, 4:9] = 2
    return [
        text({"htype": "dflatfield-1.0", "shape": [24, 16], "type": "float32"}),
        np.ones((16, 24), "<f4").tobytes(),
        text({"htype": "dpixelmask-1.0", "shape": [24, 16], "type": "uint32"}),
        mask.tobytes(),
        text({"htype": "dcountrate_table-1.0", "shape": [2, 9], "type": "float32"}),
        np.zeros((9, 2), "<f4").tobytes(),
    ]


def packed(frame: np.ndarray, encoding: str) -> bytes:
    """An encoder that is not ours."""
    flat = frame.astype(frame.dtype.newbyteorder(encoding[-1])).reshape(-1)
    if encoding[:2] == "bs":
        width = int(encoding[2:].partition("-")[0]) // 8
        shuffled = bytes(bitshuffle.compress_lz4(flat.view(np.dtype(f"u{width}"))))
        return flat.nbytes.to_bytes(8, "big") + (8192 // width // 8 * 8 * width).to_bytes(4, "big") + shuffled
    return lz4.block.compress(flat.tobytes(), store_size=False) if encoding[:3] == "lz4" else flat.tobytes()
