"""What belongs to one frame has the same bits whatever frames it was processed with: a frame alone, in a tile, in any region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import libstream as ls

RNG = np.random.default_rng(5)
MASKS = RNG.random((6, 96, 80))
UDFS: dict[str, Any] = {
    "weights": ls.udfs.VirtualDetector(mask=MASKS[0]),
    "complex": ls.udfs.VirtualDetector(mask=MASKS[0] + 1j * MASKS[1]),
    "many": ls.udfs.VirtualDetector(mask=MASKS),
    "disk": ls.udfs.VirtualDetector(outer=30),
    "totals": ls.udfs.FrameTotals(),
    "com": ls.udfs.CenterOfMass(),
    "radial": ls.udfs.RadialProfile(max_order=2),
    "fem": ls.udfs.FEM(inner=5, outer=30),
}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("name", UDFS)
def test_same_bits_alone_and_together(name: str, dtype: str) -> None:
    scan = (RNG.random((7, 9, 96, 80)) * 4000).astype(dtype)
    together = ls.run(scan, {"x": UDFS[name]}, executor="inline")["x"]
    chosen = RNG.random((7, 9)) < 0.4
    apart = ls.run(scan, {"x": UDFS[name]}, roi=chosen, executor="inline")["x"]
    for output in together:
        if together.declared[output].kind == "nav" and not together.declared[output].derived:
            np.testing.assert_array_equal(together[output][chosen], apart[output][chosen], err_msg=output)
