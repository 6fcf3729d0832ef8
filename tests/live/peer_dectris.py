"""dectris-compression, cbor2 and hdf5plugin, in an environment of their own (tests/live/peers.py). Orders and answers are lines of
JSON; data are files.

compress, decompress: payloads of files. read: stream V2 messages -> arrays. write: arrays -> stream V2 messages. They follow DECTRIS'
published description of the stream, and share nothing with libstream.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import cbor2
import h5py
import hdf5plugin
import numpy as np
from dectris.compression import decompress

KINDS = {64: "u1", 65: ">u2", 66: ">u4", 69: "<u2", 70: "<u4", 85: "<f4"}
TAGS = {"uint8": 64, "uint16": 69, "uint32": 70}


def tag(number, value):
    """Typed arrays and compressed byte strings."""
    if number == 56500:
        name, width, data = value
        return decompress(data, name, elem_size=width)
    if number in KINDS:
        return np.frombuffer(value, KINDS[number])
    if number == 40:
        return value[1].reshape(value[0])
    return value


def load(data):
    """A message. Which argument of the hook is the tag depends on the version of cbor2."""
    return cbor2.loads(data, tag_hook=lambda *given: next(tag(g.tag, g.value) for g in given if isinstance(g, cbor2.CBORTag)))


def compressed(frame, algorithm):
    """Frame -> payload, by the filters of HDF5; dectris-compression, which cannot compress, has to understand it."""
    how = hdf5plugin.Bitshuffle(cname="lz4") if algorithm == "bslz4" else hdf5plugin.LZ4()
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("data", data=frame[None], chunks=(1, *frame.shape), compression=how)
        blob = data.id.read_direct_chunk((0,) * data.ndim)[1]
    assert decompress(blob, algorithm, elem_size=frame.itemsize) == frame.tobytes()
    return blob


def do_decompress(blob, out, algorithm, width):
    """One payload."""
    with open(blob, "rb") as file:
        raw = decompress(file.read(), algorithm, elem_size=width)
    with open(out, "wb") as file:
        file.write(raw)
    return {"bytes": len(raw)}


def do_compress(frame, out, algorithm):
    """One payload."""
    with open(out, "wb") as file:
        file.write(compressed(np.load(frame), algorithm))
    return {}


def do_read(folder, out):
    """Messages 00000.cbor, ... -> what they say, and arrays by channel and number."""
    arrays, kinds, magic, said = {}, [], [], {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        message = load(data)
        kinds.append(message["type"])
        magic.append(data.startswith(b"\xd9\xd9\xf7") and data[3] >> 5 == 5)
        if message["type"] == "start":
            said = {k: message[k] for k in ("series_id", "number_of_images", "image_size_x", "image_size_y", "image_dtype")}
            said["channels"] = list(message["channels"])
        if message["type"] == "image":
            for channel, frame in message["data"].items():
                arrays[f"{channel}/{message['image_id']}"] = frame
    np.savez(out, **arrays)
    return {"kinds": kinds, "magic": magic, "start": said}


def do_write(frames, folder, algorithm):
    """Frames (channel, n, y, x) -> messages 00000.cbor, ..."""
    frames = np.load(frames)
    c, n, y, x = frames.shape
    names = [f"threshold_{i + 1}" for i in range(c)]

    def array(frame):
        raw = frame.tobytes()
        if algorithm != "none":
            width = frame.itemsize if algorithm == "bslz4" else 0
            raw = cbor2.CBORTag(56500, [algorithm, width, compressed(frame, algorithm)])
        return cbor2.CBORTag(40, [[y, x], cbor2.CBORTag(TAGS[str(frame.dtype)], raw)])

    head = {"series_id": 5, "series_unique_id": "u"}
    messages = [
        {"type": "start", **head, "channels": names, "number_of_images": n, "image_size_x": x, "image_size_y": y,
         "image_dtype": str(frames.dtype), "frame_time": 0.001, "threshold_energy": {name: 1e4 * (i + 1) for i, name in enumerate(names)}},
    ]  # fmt: skip
    for i in range(n):
        data = {name: array(frames[k, i]) for k, name in enumerate(names)}
        times = {"start_time": [i, 1000], "stop_time": [i + 1, 1000], "real_time": [1, 1000]}
        messages.append({"type": "image", **head, "image_id": i, **times, "user_data": "", "data": data})
    messages.append({"type": "end", **head})
    for i, message in enumerate(messages):
        with open(os.path.join(folder, f"{i:05d}.cbor"), "wb") as file:
            file.write(b"\xd9\xd9\xf7" + cbor2.dumps(message))
    return {"messages": len(messages)}


def main():
    does = {"compress": do_compress, "decompress": do_decompress, "read": do_read, "write": do_write}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = does[order.pop("do")](**order)
        except BaseException as exc:
            traceback.print_exc()
            answer = {"error": repr(exc)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
