"""`libstream new-udf NAME`: a UDF to start from, with a test that passes."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from libstream.cli.command import OK, Command, say
from libstream.errors import UsageError

_PLAIN = '''\
"""{class_name}: a UDF for libstream. Rename, change, throw away what you do not need."""

import numpy as np

import libstream as ls


class {class_name}(ls.UDF):
    """Brightest pixel of each frame, pixels above a threshold, and the brightest value that each pixel ever had."""

    threshold: float = ls.param(100.0, ge=0, unit="counts", title="Threshold")  # a parameter: -p threshold=50, a field in forms

    def outputs(self):
        return {{
            "peak": ls.nav(self.meta.dtype, unit="counts"),  # one value for each scan position
            "above": ls.nav("int64", title="pixels above the threshold"),
            "envelope": ls.sig(self.meta.dtype, merge="max", unit="counts"),  # one array of the frame's shape
        }}

    def process_frame(self, frame, out):
        out.peak[...] = frame.max()
        out.above[...] = np.count_nonzero(frame > self.threshold)
        np.maximum(out.envelope, frame, out=out.envelope)
'''

_KERNEL = '''\
"""{class_name}: a UDF for libstream, compiled by numba. Rename, change, throw away what you do not need."""

import libstream as ls


class {class_name}(ls.UDF):
    """Brightest pixel of each frame, pixels above a threshold, and the brightest value that each pixel ever had."""

    threshold: float = ls.param(100.0, ge=0, unit="counts", title="Threshold")  # a parameter: -p threshold=50, a field in forms

    def outputs(self):
        return {{
            "peak": ls.nav(self.meta.dtype, unit="counts"),  # one value for each scan position
            "above": ls.nav("int64", title="pixels above the threshold"),
            "envelope": ls.sig(self.meta.dtype, merge="max", unit="counts"),  # one array of the frame's shape
        }}

    @ls.kernel  # no self: after the frame come outputs and parameters, by their names; compiled at first use
    def process_frame(frame, peak, above, envelope, threshold):
        brightest, n = frame[0, 0], 0
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                value = frame[y, x]
                brightest = max(brightest, value)
                if value > threshold:
                    n += 1
                envelope[y, x] = max(envelope[y, x], value)
        peak[0] = brightest
        above[0] = n
'''

_TEST = '''\
"""Tests of {class_name}: pytest {test_file}"""

import numpy as np
from {module} import {class_name}

import libstream as ls
from libstream.testing import UDFLaws


class TestLaws({class_name_laws}):
    """Any cut of the data, in any order, gives the same result."""

    udf = {class_name}(threshold=60.0)


def test_values():
    frames = np.random.default_rng(0).poisson(50, (3, 4, 16, 20)).astype(np.uint16)  # scan (3, 4), frames (16, 20)
    result = ls.run(frames, {class_name}(threshold=60.0))
    np.testing.assert_array_equal(result["peak"], frames.max(axis=(2, 3)))
    np.testing.assert_array_equal(result["above"], (frames > 60).sum(axis=(2, 3)))
    np.testing.assert_array_equal(result["envelope"], frames.max(axis=(0, 1)))
'''.replace("{class_name_laws}", "UDFLaws")

_EXAMPLES = """\
  libstream new-udf Brightest                 brightest.py and test_brightest.py in this folder
  libstream new-udf Brightest --kernel        the same, compiled
  libstream run scan.mib --udf brightest.py:Brightest -p threshold=50 -o out.h5"""


def names(given: str) -> tuple[str, str]:
    """(module, class) for "Brightest", "brightest", "my_udf" or "my-udf". Raises UsageError where Python cannot have such a name."""
    words = [w for w in re.split(r"[\s_-]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", given.removesuffix(".py")) if w]
    module = "_".join(w.lower() for w in words)
    class_name = "".join(w[0].upper() + w[1:] for w in words)
    if not class_name.isidentifier() or not class_name.isascii() or keyword.iskeyword(module):
        raise UsageError(f"{given!r} cannot be the name of a class in Python; write letters, digits and _, a letter first: Brightest")
    if module in sys.stdlib_module_names or module in ("numpy", "libstream", "pytest"):
        raise UsageError(f"{module}.py would hide Python's own module {module}; another name, for example {class_name}Udf")
    return module, class_name


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the class (Brightest)")
    parser.add_argument("--kernel", action="store_true", help="a frame loop in compiled code (numba)")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: this one)")


def _run(args: argparse.Namespace) -> int:
    module, class_name = names(args.name)
    source, test = args.dir / f"{module}.py", args.dir / f"test_{module}.py"
    for path in (source, test):
        if path.exists():
            raise UsageError(f"{path} exists and is not overwritten; give another name, or --dir")
    args.dir.mkdir(parents=True, exist_ok=True)
    words = {"class_name": class_name, "module": module, "test_file": test.name}
    source.write_text((_KERNEL if args.kernel else _PLAIN).format(**words), encoding="utf-8")
    test.write_text(_TEST.format(**words), encoding="utf-8")
    say(f"wrote {source} and {test}\n\nnext:\n  pytest {test}\n  libstream run FILE --udf {source}:{class_name} -p threshold=50 -o out.h5")
    return OK


COMMAND = Command("write a UDF to start from, with a test", _configure, _run, _EXAMPLES)
