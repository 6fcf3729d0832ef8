"""The plug-in author's door: contracts, model, kernels, errors. libstream's own plug-ins use nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libstream import registry
from libstream.codecs import bslz4, cbor, lsr, merlin, merlin_header, wire
from libstream.config import n_workers as _n_workers
from libstream.config import slurm_config as _slurm_config
from libstream.contracts.dealt import Consumer, Consumers, Dealt, KeepsConsumers, UnknownRunError
from libstream.contracts.executor import CancelFlag, Executor, Traits, Work
from libstream.contracts.sink import Sink
from libstream.contracts.source import FileFormat, FrameReader, FrameSource, Growing, HandsOut, Opener, Partition, Planned, TakesPartitions
from libstream.contracts.stream import (
    Announced,
    Controller,
    Decoder,
    Detector,
    DetectorKind,
    Encoder,
    Event,
    FramePart,
    Outgoing,
    Parts,
    Received,
    RunEnd,
    RunHeader,
    Skipped,
    StreamUrl,
    Transport,
)
from libstream.contracts.udf import UDF, PerPosition, param
from libstream.errors import (
    CancelledError,
    CodecError,
    CorruptFileError,
    FormatError,
    LibstreamError,
    NotInstalledError,
    ParameterError,
    SaveError,
    ShapeError,
    SourceChangedError,
    UDFError,
    UsageError,
    WireError,
    WorkerLostError,
)
from libstream.kernels.jit import Kernel, flat_of, frame_of, kernel, part_of, prefetch, row_of
from libstream.model.array import Array, digest_of
from libstream.model.corrections import Corrections
from libstream.model.order import ScanOrder
from libstream.model.output import Output, default_fill, nav, ragged, sig, single
from libstream.model.partial import EXCLUDED, MISSING, Coverage, Partial, RaggedPart
from libstream.model.quantity import Quantity, convert
from libstream.model.ragged import Ragged
from libstream.model.result import Outputs, Result
from libstream.model.shape import DataShape, Region, Span
from libstream.model.source import Axis, RunMeta, SourceId, SourceMeta, default_axes
from libstream.model.tile import At, Tile
from libstream.registry import load

n_workers_default = _n_workers
slurm_config_default = _slurm_config


def transport(name: str, *args: Any, **options: Any) -> Transport:
    """A `Transport` for a detector: "zmq" or "tcp".

    `transport("zmq", addresses, kind="pull" or "push", bind=...)`: addresses such as "tcp://127.0.0.1:9999", several for several lanes.
    `transport("tcp", host, port, listen=..., framing=...)`: framing cuts the stream into messages, see its contract in
    `libstream/io_backends/streams/_framing.py`; None for a side that only sends.
    """
    made: Transport = load("transports", name)(*args, **options)
    return made


def decoder_at(url: str, **options: Any) -> tuple[Callable[[], Decoder], int, int]:
    """What understands the messages of the detector at `url`: a function that makes decoders, sectors of a frame, number of senders.

    The last two are 0 where only the address as a whole could tell, and something that it names (a file of keys) is not there.
    Nothing is opened. Raises UsageError for an unknown kind of detector, NotInstalledError for missing packages.
    """
    address = StreamUrl.parse(url)
    kind: DetectorKind = registry.load("detectors", address.scheme)()
    try:
        detector = kind.receiver(address, **options)
        return detector.make_decoder, detector.sectors, detector.n_senders
    except (UsageError, OSError):
        return lambda: kind.decoder(address, **options), 0, 0


__all__ = [
    "EXCLUDED",
    "MISSING",
    "UDF",
    "Announced",
    "Array",
    "At",
    "Axis",
    "CancelFlag",
    "CancelledError",
    "CodecError",
    "Consumer",
    "Consumers",
    "Controller",
    "Corrections",
    "CorruptFileError",
    "Coverage",
    "DataShape",
    "Dealt",
    "Decoder",
    "Detector",
    "DetectorKind",
    "Encoder",
    "Event",
    "Executor",
    "FileFormat",
    "FormatError",
    "FramePart",
    "FrameReader",
    "FrameSource",
    "Growing",
    "HandsOut",
    "KeepsConsumers",
    "Kernel",
    "LibstreamError",
    "NotInstalledError",
    "Opener",
    "Outgoing",
    "Output",
    "Outputs",
    "ParameterError",
    "Partial",
    "Partition",
    "Parts",
    "PerPosition",
    "Planned",
    "Quantity",
    "Ragged",
    "RaggedPart",
    "Received",
    "Region",
    "Result",
    "RunEnd",
    "RunHeader",
    "RunMeta",
    "SaveError",
    "ScanOrder",
    "ShapeError",
    "Sink",
    "Skipped",
    "SourceChangedError",
    "SourceId",
    "SourceMeta",
    "Span",
    "StreamUrl",
    "TakesPartitions",
    "Tile",
    "Traits",
    "Transport",
    "UDFError",
    "UnknownRunError",
    "UsageError",
    "WireError",
    "Work",
    "WorkerLostError",
    "bslz4",
    "cbor",
    "convert",
    "decoder_at",
    "default_axes",
    "default_fill",
    "digest_of",
    "flat_of",
    "frame_of",
    "kernel",
    "lsr",
    "merlin",
    "merlin_header",
    "nav",
    "param",
    "part_of",
    "prefetch",
    "ragged",
    "row_of",
    "sig",
    "single",
    "transport",
    "wire",
]  # fmt: skip
