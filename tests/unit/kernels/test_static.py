"""`@staticmethod` beside `@kernel`, in either order, changes nothing: it is there for type checkers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import libstream as ls

_Arr = np.ndarray[Any, Any]


class Below(ls.UDF):
    """@kernel above @staticmethod."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"peak": ls.nav("int64")}

    @ls.kernel
    @staticmethod
    def process_frame(frame: _Arr, peak: _Arr) -> None:
        peak[0] = frame.max()


class Above(ls.UDF):
    """@staticmethod above @kernel."""

    def outputs(self) -> dict[str, ls.Output]:
        return {"peak": ls.nav("int64")}

    @staticmethod
    @ls.kernel
    def process_frame(frame: _Arr, peak: _Arr) -> None:
        peak[0] = frame.max()


@pytest.mark.parametrize("udf", [Below(), Above()])
def test_it_is_a_kernel_like_any_other(udf: ls.UDF) -> None:
    frames = np.random.default_rng(0).integers(0, 1000, (3, 4, 8, 8)).astype(np.uint16)
    np.testing.assert_array_equal(ls.run(frames, udf)["peak"], frames.max(axis=(2, 3)))
    assert "process_frame" in repr(udf.hook())
