"""Every frame is accounted for.

Two equations hold in every account, at every moment:

    announced = processed + corrupt + dropped + missing + unseen                                   (scan positions)
    received  = processed + corrupt + dropped + excluded + partial + pending + gone
              + duplicate + late + surplus + foreign                                               (frames)

`missing` grows when a run is closed; until then these positions are `unseen`. `pending` frames wait to be processed, `gone` ones were
merged once and have left the memory before they could be processed with new parameters (their positions are unseen, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

MEANING = {
    "announced": "scan positions that the run should have (without flyback and what a region of interest leaves out)",
    "processed": "positions in the result",
    "corrupt": "positions whose frame was damaged, or of another shape or dtype than the run",
    "dropped": "positions whose frame was received while the memory was full, and thrown away (policy drop)",
    "missing": "positions whose frame never came, or not with all its sectors",
    "unseen": "positions that nothing is known of yet",
    "received": "frames that came in",
    "excluded": "frames at positions that are not asked for: flyback, outside of the region of interest",
    "partial": "frames of which some sectors or channels never came",
    "pending": "frames that wait to be processed",
    "gone": "frames that were no longer in memory when parameters were changed",
    "duplicate": "frames that came more than once (the first one counts)",
    "late": "frames that came after their run was closed",
    "surplus": "frames with a number beyond the announced ones",
    "foreign": "frames of another run, or without a header",
}


@dataclass
class Counts:
    """What one run received, in frames; where frames come in sectors or channels, `duplicate`, `late`, `surplus` and `foreign`
    count these parts. messages, bytes: of everything that arrived; malformed: messages that nobody could understand."""

    frames: int = 0
    duplicate: int = 0
    late: int = 0
    surplus: int = 0
    foreign: int = 0
    flyback: int = 0
    partial: int = 0
    dropped: int = 0
    rejected: int = 0
    malformed: int = 0
    oversized: int = 0
    messages: int = 0
    bytes: int = 0

    @property
    def received(self) -> int:
        """All frames that came in."""
        return self.frames + self.duplicate + self.late + self.surplus + self.foreign

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def imbalance(account: Mapping[str, int]) -> str:
    """ "" where both equations hold, else which one does not, with its numbers."""
    a = account
    positions = a["processed"] + a["corrupt"] + a["dropped"] + a["missing"] + a["unseen"]
    if positions != a["announced"]:
        return f"{a['announced']} positions are announced, {positions} accounted for: {dict(a)}"
    frames = sum(
        a[k]
        for k in ("processed", "corrupt", "dropped", "excluded", "partial", "pending", "gone", "duplicate", "late", "surplus", "foreign")
    )
    if frames != a["received"]:
        return f"{a['received']} frames were received, {frames} accounted for: {dict(a)}"
    return ""


def in_words(account: Mapping[str, int]) -> str:
    """One line for people: what was processed, and everything that is not as it should be."""
    rest = [f"{account[k]:,} {k}" for k in MEANING if k not in ("announced", "processed", "received", "excluded") and account.get(k)]
    line = f"{account['processed']:,} of {account['announced']:,} positions processed, {account['received']:,} frames received"
    return line + (" (" + ", ".join(rest) + ")" if rest else "")
