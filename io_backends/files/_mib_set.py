"""Which files belong to a Merlin acquisition, and whether they hold what they state: names, sizes, frame numbers, counters."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from libstream.ext import CorruptFileError, FormatError, merlin, merlin_header
from libstream.io_backends.files._identity import StoredFile, stat_file

_N_SAMPLES = 16
_SEPARATORS = "[ _.-]*"


@dataclass(frozen=True)
class Part:
    """One .mib file. file: with its number of records. head: of its first frame. rest: bytes after the last whole record."""

    file: StoredFile
    head: merlin_header.FrameHeader
    pixels: merlin.Pixels
    rest: int = 0

    @property
    def record(self) -> int:
        """Bytes of a frame with its header."""
        return self.head.offset + self.pixels.n_bytes


@dataclass(frozen=True)
class Numbering:
    """What the sequence numbers of the frames are.

    first: of each file, None where they follow no rule. per_number: successive records with the same number.
    """

    first: tuple[int | None, ...]
    per_number: int
    notes: tuple[str, ...] = ()


# -- names -------------------------------------------------------------------------------------------------------------


def companions(path: str, whole_set: bool) -> tuple[str | None, list[str]]:
    """The .hdr file (None where there is none) and the .mib files that can belong to `path`, in the order of their numbers."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    if suffix.lower() == ".hdr":
        files = _numbered(folder, stem)
        if not files:
            raise FormatError(
                f"{path}: the frames that belong to this header are missing: expected {stem}.mib or {stem}<number>.mib beside it, "
                "found neither. Copy the .mib file(s) into the same folder."
            )
        return path, files
    base = re.sub(_SEPARATORS + r"\d+$", "", stem) or stem
    own = _header_of(folder, stem)
    if not whole_set or (own is None and base == stem):
        return own or _header_of(folder, base), [path]
    return (own, _numbered(folder, stem)) if own is not None else (_header_of(folder, base), _numbered(folder, base))


def _header_of(folder: str, stem: str) -> str | None:
    for suffix in (".hdr", ".HDR", ".Hdr"):
        if os.path.isfile(candidate := os.path.join(folder, stem + suffix)):
            return candidate
    return None


def _numbered(folder: str, base: str) -> list[str]:
    """Files base.mib, base<number>.mib, by number; without those that have a header of their own."""
    pattern = re.compile(re.escape(base) + rf"(?:{_SEPARATORS}(\d+))?\.mib", re.IGNORECASE)
    found = []
    for name in os.listdir(folder):
        match = pattern.fullmatch(name)
        if match is None or (match[1] is not None and _header_of(folder, os.path.splitext(name)[0]) is not None):
            continue
        found.append((int(match[1]) if match[1] else -1, name))
    return [os.path.join(folder, name) for _, name in sorted(found)]


# -- one file ----------------------------------------------------------------------------------------------------------


def read_part(path: str, depth: int) -> Part:
    """Read and check the first header of a file, and count its records. depth: counter depth by the .hdr, 0 = not known."""
    file = stat_file(path)
    if file.size == 0:
        raise CorruptFileError(f"{path}: is empty (0 bytes), expected frames. Was the copy or the acquisition interrupted?")
    with open(path, "rb") as f:
        data = f.read(merlin_header.MAX_HEADER)
    where = f"{path}, byte 0"
    head = merlin_header.parse_frame_header(data, where)
    if head.colour:
        raise FormatError(
            f"{where}: recorded in colour mode (several thresholds per pixel), which is not supported: how its images follow "
            "each other is not documented. Record in SPM or CSM mode."
        )
    if head.code == "R64" and not head.depth and not depth:
        depth = _found_depth(file, head)
    pixels = head.pixels(where, depth)
    record = head.offset + pixels.n_bytes
    n, rest = divmod(file.size, record)
    if n == 0:
        raise CorruptFileError(
            f"{path}: too short for one frame: its header announces {head.describe()}, which takes {record} bytes, "
            f"the file has {file.size}. Truncated copy? Copy it again."
        )
    return Part(replace(file, n_frames=n), head, pixels, rest)


def _found_depth(file: StoredFile, head: merlin_header.FrameHeader) -> int:
    """Counter depth of raw frames whose header does not state it: that at which the second frame begins."""
    refused: FormatError | None = None
    fits = 0
    with open(file.path, "rb") as f:
        for depth in merlin.DEPTHS:
            try:
                record = head.offset + head.pixels(f"{file.path}, byte 0", depth).n_bytes
            except FormatError as exc:
                refused = exc
                continue
            fits += 1
            f.seek(record)
            if f.read(4) == merlin_header.MAGIC or record == file.size:
                return depth
    if refused is not None and not fits:
        raise refused
    raise CorruptFileError(
        f"{file.path}: raw frames whose header does not state the counter depth, and no second frame where one is expected at "
        f"{', '.join(map(str, merlin.DEPTHS))} bit. Put the .hdr file beside it."
    )


def same_layout(parts: Sequence[Part]) -> None:
    """Raise FormatError unless all files hold frames of one kind."""
    for part in parts[1:]:
        if part.head.geometry != parts[0].head.geometry:
            raise FormatError(
                f"{part.file.path}: its frames are {part.head.describe()}, those of {parts[0].file.path} {parts[0].head.describe()}: "
                "not one acquisition. Pass whole_set=False to open one file, or move the others to another folder."
            )


# -- sequence numbers and counters -------------------------------------------------------------------------------------


def _samples(n: int) -> list[int]:
    spread = (n * i // _N_SAMPLES for i in range(_N_SAMPLES))
    return sorted({i for i in (0, 1, 2, 3, *spread, n - 4, n - 3, n - 2, n - 1) if 0 <= i < n})


def _heads(part: Part, indices: Sequence[int], size: int) -> list[bytes]:
    with open(part.file.path, "rb") as f:
        out = []
        for i in indices:
            f.seek(i * part.record)
            out.append(f.read(size))
    return out


def _number(head: bytes) -> int | None:
    match = re.match(rb"MQ1,(\d{1,10}),", head)
    return int(match[1]) if match else None


def counters_of(part: Part) -> tuple[int, ...]:
    """Counters of which each exposure gave an image, in the order in which they are stored: (0,), (1,), (0, 1) or (1, 0).

    Images of both counters in turn need not be two of one exposure: in continuous recording ("Active Counters: Alternating") the
    detector counts with one while it reads the other, and each image is a frame of its own, with its own number and time.
    """
    n = part.file.n_frames
    plain = (part.head.counter,)
    for i in range(0, min(n - 1, 6), 2):
        a, b = (_parsed(head, part) for head in _heads(part, (i, i + 1), part.head.offset))
        if a is not None and b is not None:
            break
    else:  # damaged headers say nothing
        return plain
    same = a.number == b.number or (a.timestamp_utc or a.timestamp or "a") == (b.timestamp_utc or b.timestamp or "b")
    if a.counter == b.counter or not same:
        return plain
    indices = _samples(n)
    for k, head in zip(indices, _heads(part, indices, part.head.offset), strict=True):
        found = _parsed(head, part)
        if found is not None and found.counter != a.counter ^ (k % 2):
            raise FormatError(
                f"{part.file.path}: holds images of both counters for each exposure, but frame {k} is of counter {found.counter}, "
                f"expected {a.counter ^ (k % 2)}: they do not alternate. The order of such a file is not known."
            )
    return (a.counter, 1 - a.counter)


def _parsed(head: bytes, part: Part) -> merlin_header.FrameHeader | None:
    try:
        return merlin_header.parse_frame_header(head, part.file.path)
    except FormatError:  # a damaged frame: found again, and counted, when it is read
        return None


def numbering(parts: Sequence[Part], n_counters: int) -> Numbering:
    """Check the frames' numbers at the ends of all files and at places between."""
    firsts: list[int | None] = []
    notes: list[str] = []
    per_number = 1
    if n_counters == 2 and _number(_heads(parts[0], [1], 32)[0]) == parts[0].head.number:
        per_number = 2
    for part in parts:
        indices = _samples(part.file.n_frames)
        numbers = [_number(h) for h in _heads(part, indices, 32)]
        if len(numbers) > 1 and all(n is None for n in numbers[1:]):
            raise CorruptFileError(
                f"{part.file.path}: no frame begins at byte {part.record} or at {len(numbers) - 2} other places where one is expected "
                f"by the first header ({part.head.describe()}). The file is damaged, or of a variant that is not known."
            )
        first = part.head.number
        shifts = [(i, n - first - i // per_number) for i, n in zip(indices, numbers, strict=True) if n is not None]
        wrong = [(i, s) for i, s in shifts if s % 1_000_000]
        if len(wrong) < 2:  # none, or one damaged header
            firsts.append(first)
            continue
        firsts.append(None)
        i, shift = wrong[0]
        got = first + i // per_number + shift
        notes.append(
            f"{os.path.basename(part.file.path)}: frame numbers do not rise by one (frame {i} has number {got}, expected {got - shift}): "
            "frames were lost or numbering began again; frames are taken in the order of the file"
        )
    return Numbering(tuple(firsts), per_number, tuple(notes))


def continues(before: Part, after: Part, n_counters: int = 2) -> bool:
    """True where the numbers of `after` follow on those of `before`."""
    n = before.file.n_frames
    return after.head.number - before.head.number in {n, -(-n // n_counters)}


def ordered(parts: Sequence[Part], n_counters: int) -> tuple[list[Part], tuple[str, ...]]:
    """Parts in the order of their frames. Raises CorruptFileError where a file between them is missing."""
    if len(parts) == 1 or all(p.head.number == parts[0].head.number for p in parts):  # each file begins anew
        return list(parts), ()
    by_number = sorted(parts, key=lambda p: p.head.number)
    for before, after in pairwise(by_number):
        if not continues(before, after, n_counters):
            expected = before.head.number + before.file.n_frames // n_counters
            raise CorruptFileError(
                f"{after.file.path}: begins with frame number {after.head.number}, expected {expected} after "
                f"{before.file.path}. Is a file of the set missing, or does this one belong to another scan? "
                "Pass whole_set=False to open one file alone."
            )
    if by_number != list(parts):
        return by_number, ("files are taken in the order of their frame numbers, which is not that of their names",)
    return by_number, ()
