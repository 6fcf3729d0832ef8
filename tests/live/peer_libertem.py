"""LiberTEM-live as a receiver; run by the Python of its own environment (tests/live/peers.py). Orders and answers are lines of JSON.

listen: connect to a detector (kind dectris or merlin, ports data and api); answered when it listens.
run: arm and trigger the detector by LiberTEM-live's own client, process one acquisition of shape `scan`, write arrays to `out`.
write: a file of DECTRIS messages from `frames`, for LiberTEM-live's simulator; pixels are compressed by h5py and hdf5plugin.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback

import numpy as np


class Listener:
    """One connection after another."""

    def __init__(self):
        self.context = self.connection = None

    def listen(self, kind, data, api):
        from libertem_live.api import LiveContext

        if self.context is None:
            self.context = LiveContext()  # with the PipelinedExecutor
        self.close_connection()
        self.kind, self.api = kind, api
        builder = self.context.make_connection(kind)
        more = {"buffer_size": 64} if kind == "dectris" else {"drain": False}
        self.connection = builder.open(api_host="127.0.0.1", api_port=api, data_host="127.0.0.1", data_port=data, **more)
        self.connection.__enter__()
        self.connection.wait_for_acquisition(timeout=0.2)  # it begins to listen
        return {}

    def run(self, scan, out):
        from libertem.udf.sum import SumUDF
        from libertem.udf.sumsigudf import SumSigUDF

        starter = threading.Thread(target=getattr(self, f"start_{self.kind}"), daemon=True)
        starter.start()
        pending = self.connection.wait_for_acquisition(timeout=30)
        assert pending is not None, "no acquisition began"
        acquisition = self.context.make_acquisition(conn=self.connection, nav_shape=tuple(scan), pending_aq=pending, frames_per_partition=8)
        found = self.context.run_udf(dataset=acquisition, udf=[SumUDF(), SumSigUDF()])
        starter.join(10)
        np.savez(out, sum=found[0]["intensity"].data, totals=np.asarray(found[1]["intensity"].data).reshape(scan))
        return {"executor": type(self.context.executor).__name__}

    def start_dectris(self):
        client = self.connection.get_api_client()
        client.setDetectorConfig("trigger_mode", "exts")
        client.sendDetectorCommand("arm")
        client.sendDetectorCommand("trigger")

    def start_merlin(self):
        from libertem_live.detectors.merlin.control import MerlinControl

        time.sleep(0.2)  # a header that comes before somebody waits for it is thrown away
        with MerlinControl("127.0.0.1", self.api) as control:
            control.set("TRIGGERSTART", 5)
            control.cmd("STARTACQUISITION")
            time.sleep(0.2)
            control.cmd("SOFTTRIGGER")

    def close_connection(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self):
        self.close_connection()
        if self.context is not None:
            self.context.close()


def write(frames, out, encoding):
    """Records of (length as int64, bytes), one for each part of each message."""
    import h5py
    import hdf5plugin

    frames = np.load(frames)
    n, y, x = frames.shape
    config = {
        "bit_depth_image": 8 * frames.dtype.itemsize, "bit_depth_readout": 16, "compression": "bslz4", "count_time": 0.001,
        "frame_time": 0.001, "nimages": 1, "ntrigger": n, "trigger_mode": "exte", "x_pixels_in_detector": x, "y_pixels_in_detector": y,
        "photon_energy": 200000.0, "sensor_material": "Si", "description": "simulated", "detector_number": "0",
    }  # fmt: skip
    parts = [{"htype": "dheader-1.0", "header_detail": "basic", "series": 34}, config]
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("data", data=frames, chunks=(1, y, x), compression=hdf5plugin.Bitshuffle(cname="lz4"))
        for i in range(n):
            pixels = data.id.read_direct_chunk((i, 0, 0))[1]
            parts += [
                {"htype": "dimage-1.0", "series": 34, "frame": i, "hash": "0"},
                {"htype": "dimage_d-1.0", "shape": [x, y], "type": str(frames.dtype), "encoding": encoding, "size": len(pixels)},
                pixels,
                {"htype": "dconfig-1.0", "start_time": i * 1000, "stop_time": i * 1000 + 999, "real_time": 999},
            ]
    parts.append({"htype": "dseries_end-1.0", "series": 34})
    with open(out, "wb") as file:
        for part in parts:
            raw = part if isinstance(part, bytes) else json.dumps(part).encode()
            file.write(len(raw).to_bytes(8, "little") + raw)
    return {}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get between the answers
    listener = Listener()
    does = {"listen": listener.listen, "run": listener.run, "write": write}
    try:
        for line in sys.stdin:
            order = json.loads(line)
            name = order.pop("do")
            guard = threading.Timer(60, lambda: os._exit(3))  # nobody waits for ever for an answer
            guard.start()
            try:
                answer = does[name](**order)
            except BaseException as exc:
                traceback.print_exc()
                answer = {"error": repr(exc)}
            guard.cancel()
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        with contextlib.suppress(Exception):
            listener.close()


if __name__ == "__main__":
    main()
