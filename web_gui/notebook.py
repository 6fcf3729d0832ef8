"""`ls.live_view`: the page's modules in a cell of a notebook, by anywidget. Imports it, and the engine's results, when it is used."""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

from libstream.errors import NotInstalledError
from libstream.web_gui import bundle
from libstream.web_gui.kernelview import KernelView


def live_view(what: Any, *, height: int = 360) -> Any:
    """See `libstream.live_view`."""
    return widget_class()(what, height=height)


@functools.cache
def widget_class() -> type:
    """The class of the widget: made when it is first wanted, since it needs anywidget. Raises NotInstalledError."""
    try:
        import anywidget
        import traitlets
    except ImportError as exc:
        raise NotInstalledError(
            f"ls.live_view needs {exc.name}, which is not installed: pip install 'libstream[jupyter]' where the kernel runs, then "
            "restart the kernel; where JupyterLab runs in another environment, install anywidget there too",
            name=exc.name,
        ) from exc

    class LiveView(anywidget.AnyWidget):
        """A view of a run in a notebook; made by `ls.live_view`.

        `show(job)` shows another run in the same place, `close()` ends the view and leaves its last picture; the run goes on.
        """

        _esm = bundle.module()
        height = traitlets.Int(360).tag(sync=True)
        kept = traitlets.Dict().tag(sync=True)
        arrays = traitlets.List(traitlets.Bytes()).tag(sync=True)

        def __init__(self, what: Any, height: int) -> None:
            self._view = KernelView(self._post, self._keep, deaf)
            self._lock = threading.Lock()
            deaf()  # listens to the cells from now on
            self._view.watched.show(what)  # raises what is wrong before anything is drawn
            super().__init__(height=height)
            self.on_msg(lambda _, content, buffers: self._view.hear(content))
            self._view.start()
            self._view.poke()

        def show(self, what: Any) -> Any:
            """Show another run (or result) from now on; returns what was given: `view.show(ls.start(...)).wait()`."""
            self._view.watched.show(what)
            return what

        @property
        def job(self) -> Any:
            """The run that is shown, None for a result."""
            return self._view.watched.job

        def close(self) -> None:
            """End the view; the run goes on, and the last picture stays where it was drawn."""
            self._view.close()

        def __repr__(self) -> str:
            return f"<live view of {self.job!r}>" if self.job is not None else "<live view of a result>"

        def _post(self, message: dict[str, Any], parts: list[bytes]) -> None:
            with self._lock:
                _as_the_cell(self.send, message, parts)

        def _keep(self, kept: dict[str, Any], arrays: list[bytes]) -> None:
            with self._lock:
                _as_the_cell(self._hold, kept, arrays)

        def _hold(self, kept: dict[str, Any], arrays: list[bytes]) -> None:
            with self.hold_sync():
                self.kept, self.arrays = kept, arrays

    return LiveView


class _Cells:
    """Whether the kernel runs a cell now: what views say waits until it is over. context: of the newest cell."""

    def __init__(self, shell: Any) -> None:
        self.running = True
        self.context = contextvars.copy_context()
        shell.events.register("pre_run_cell", self._begins)
        shell.events.register("post_run_cell", self._ends)

    def _begins(self, *_: Any) -> None:
        self.running = True
        self.context = contextvars.copy_context()

    def _ends(self, *_: Any) -> None:
        self.running = False


@functools.cache
def _cells() -> _Cells | None:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return None if getattr(shell, "kernel", None) is None else _Cells(shell)


def _as_the_cell(call: Callable[..., None], *args: Any) -> None:
    """Call as the newest cell does: programs that execute notebooks hear only what belongs to the cell that they wait for."""
    cells = _cells()
    if cells is None:
        call(*args)
    else:
        cells.context.copy().run(call, *args)


def deaf() -> bool:
    """True while a cell runs."""
    cells = _cells()
    return cells is not None and cells.running
