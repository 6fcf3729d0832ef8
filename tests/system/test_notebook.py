"""A notebook that is executed in a kernel of its own: views, results, progress, as they are kept in the file."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.web_gui import wire

CELLS = """
import libstream as ls
scan = ls.open('scan.npy')
scan
---
job = ls.start(scan, {'adf': ls.udfs.VirtualDetector(inner=3, outer=7), 'com': ls.udfs.CenterOfMass()})
view = ls.live_view(job)
view
---
result = job.wait()
result
---
view
---
again = ls.run(scan, ls.udfs.Sum(), progress=True)
---
job.update('adf', inner=4)
job.wait()['adf']
---
view.close()
import threading
[t.name for t in threading.enumerate() if t.name.startswith(('libstream-view', 'libstream-watched'))]
""".strip().split("\n---\n")


@pytest.fixture(scope="module")
def frames() -> np.ndarray[Any, Any]:
    return np.random.default_rng(4).poisson(9, (12, 10, 16, 16)).astype(np.uint16)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray[Any, Any]) -> Any:
    """The notebook with its outputs, and the state of its widgets."""
    reason = "{} is not installed: pip install libstream[test]"
    nbclient = pytest.importorskip("nbclient", reason=reason.format("nbclient"))
    nbformat = pytest.importorskip("nbformat", reason=reason.format("nbformat"))
    for name in ("ipykernel", "anywidget", "ipywidgets"):
        pytest.importorskip(name, reason=reason.format(name))
    folder = tmp_path_factory.mktemp("notebook")
    np.save(folder / "scan.npy", frames)
    _kernel_of_this_python(folder / "jupyter")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="this", resources={"metadata": {"path": str(folder)}}, store_widget_state=True
        )
        client.execute()
    return notebook


def _kernel_of_this_python(folder: Path) -> None:
    spec = folder / "kernels" / "this"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "this", "language": "python"}))


def outputs(notebook: Any, cell: int) -> list[Any]:
    found = notebook.cells[cell].outputs
    assert not [o for o in found if o.output_type == "stream" and o.name == "stderr"], found
    return list(found)


def test_sources_and_results_are_tables(executed: Any) -> None:
    (source,) = outputs(executed, 0)
    assert "uint16" in source["data"]["text/html"]
    (result,) = outputs(executed, 2)
    html = result["data"]["text/html"]
    assert "120 of 120 positions processed" in html
    assert html.count("<img src=") >= 8
    assert "<script" not in html
    assert result["data"]["text/plain"].startswith("Result, complete")
    assert "image/png" not in result["data"], "there are several images"


def test_a_run_with_progress_leaves_one_output_that_says_what_was_done(executed: Any) -> None:
    (bar,) = outputs(executed, 4)
    assert bar.output_type == "display_data"
    assert "100 %: 120 of 120 positions" in bar["data"]["text/plain"]
    assert "width:100.0%" in bar["data"]["text/html"]


def test_a_view_is_kept_with_its_last_picture(executed: Any, frames: np.ndarray[Any, Any]) -> None:
    (first,), (second,) = outputs(executed, 1), outputs(executed, 3)
    view = "application/vnd.jupyter.widget-view+json"
    model = first["data"][view]["model_id"]
    assert second["data"][view]["model_id"] == model, "it is drawn again, not made again"
    saved = executed.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"][model]
    kept = saved["state"]["kept"]["state"]
    assert kept["run"]["state"] == "done"
    assert kept["analyses"]["adf"]["params"]["inner"] == 4
    parts = [base64.b64decode(b["data"]) for b in saved["buffers"] if b["path"][0] == "arrays"]
    arrays = {header["topic"]: values for header, values in map(wire.unpack, parts)}
    expected = ls.run(ls.open(frames), ls.udfs.VirtualDetector(inner=4, outer=7))["intensity"]
    assert np.array_equal(arrays["a/adf/intensity"], expected)
    assert "render" in saved["state"]["_esm"]


def test_closing_a_view_ends_its_threads(executed: Any) -> None:
    assert outputs(executed, 6)[0]["data"]["text/plain"] == "[]"
