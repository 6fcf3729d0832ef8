"""Views in notebooks."""

from __future__ import annotations

from typing import Any

from libstream import registry


def live_view(what: Any, *, height: int = 360) -> Any:
    """Show a run in a cell of a notebook: images while they grow, with the detectors of the UDFs to drag, as on the page.

    Make it the last line of a cell, or `display` it. Dragging a handle, in the notebook or by `job.update`, computes again.

    Args:
        what: a Job (from `ls.start`), over stored frames or an acquisition; or a Result, which is shown as it is.
        height: of the images, in px of the screen.

    The view has `show(job)` to go on with another run in the same place, `job`, and `close()`, which ends the view and leaves its last
    picture; runs go on by themselves. The last pictures are kept with the notebook where it keeps the state of widgets.

    Raises:
        NotInstalledError: without anywidget (`pip install 'libstream[jupyter]'`).
        UsageError: for what is no run.
    """
    return registry.load("servers", "notebook")(what, height=height)
