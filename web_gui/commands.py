"""What pages and scripts may ask for, by name: arguments checked, control checked, done in a thread and never on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libstream.errors import LibstreamError, UsageError
from libstream.jobs import code, detectors, looking, sources
from libstream.jobs.corrected import corrected
from libstream.jobs.session import Session
from libstream.web_gui.auth import Control
from libstream.web_gui.browse import Roots
from libstream.web_gui.forms import fields_of, first_sentence, handles_of
from libstream.web_gui.topics import Hub, Key

ANY: tuple[type, ...] = (object,)
TEXT, NUMBER, LIST, OBJECT, FLAG = (str,), (int, float), (list,), (dict,), (bool,)


class NotInControl(Exception):
    """Someone else is in control."""


@dataclass(frozen=True)
class Context:
    """What commands work on."""

    session: Session
    hub: Hub
    roots: Roots
    control: Control

    def __post_init__(self) -> None:
        self.session.records.resolve = self.roots.resolve  # what was kept is made again of files that a page may read


@dataclass(frozen=True)
class Command:
    """One command. required, optional: types of the arguments; free: may be used without being in control."""

    run: Callable[..., Any]
    required: Mapping[str, tuple[type, ...]]
    optional: Mapping[str, tuple[type, ...]]
    free: bool = False


COMMANDS: dict[str, Command] = {}


def command(_free: bool = False, _optional: Mapping[str, tuple[type, ...]] | None = None, **required: tuple[type, ...]) -> Any:
    """Register a function under its name, without the leading underscore."""

    def register(func: Callable[..., Any]) -> Callable[..., Any]:
        COMMANDS[func.__name__.strip("_")] = Command(func, required, dict(_optional or {}), _free)
        return func

    return register


def checked(name: Any, args: Any) -> Command:
    """The command `name`, if `args` suit it. Raises UsageError."""
    found = COMMANDS.get(name) if isinstance(name, str) else None
    if found is None:
        raise UsageError(f"there is no command {name!r:.80}; there are {', '.join(COMMANDS)}")
    if not isinstance(args, dict):
        raise UsageError(f"{name}: args are an object")
    known = {**found.required, **found.optional}
    for key in args:
        if key not in known:
            raise UsageError(f"{name} takes no {key!r:.80}; it takes {', '.join(known) or 'nothing'}")
    for key in found.required:
        if key not in args:
            raise UsageError(f"{name} needs {key}")
    for key, value in args.items():
        types = known[key]
        if value is None and key in found.optional:
            continue
        if types is not ANY and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise UsageError(f"{name}: {key} is {' or '.join(t.__name__ for t in types)}, got {value!r:.80}")
    return found


def run(context: Context, name: str, args: Mapping[str, Any], client: str, *, for_s: float | None = None) -> Any:
    """Do it; waits, so in a thread. Raises UsageError, NotInControl, and what the command raises."""
    found = checked(name, dict(args))
    if not found.free and not context.control.may(client, for_s=for_s):
        raise NotInControl("someone else is in control; take control first")
    return found.run(context, **args)


# -- source ------------------------------------------------------------------------------------------------------------


def allowed_uri(roots: Roots, uri: str) -> str:
    """`uri` if a page may open it: an address that is no file, or a file under a root. Raises UsageError."""
    if not uri or len(uri) > 4096:
        raise UsageError("uri is a path or an address")
    if not sources.is_address(uri):
        return str(roots.resolve(uri, "uri"))
    scheme = uri.split("://")[0]
    known = {f["name"] for f in sources.formats()} | {d["name"] for d in sources.detectors()}
    if scheme not in known:
        raise UsageError(f"{uri}: nobody knows addresses that begin with {scheme}://; known are {', '.join(sorted(known))}")
    if "curve=" in uri or scheme == "ipc":
        raise UsageError(f"{uri}: keys are named where the server is started (libstream serve URL), not by a page")
    return uri


def allowed_options(roots: Roots, options: Mapping[str, Any], *, live: bool) -> dict[str, Any]:
    """Options of `ls.open` or `ls.connect` that a page may give. Raises UsageError."""
    out = dict(options)
    if live:
        unknown = [k for k in out if k not in sources.LIVE_OPTIONS and k not in ("counters", "bind", "frame", "info", "producers")]
        if unknown:
            raise UsageError(f"a page cannot give {', '.join(unknown)}; it may give {', '.join(sources.LIVE_OPTIONS)}")
        if out.get("record") is not None:
            out["record"] = str(roots.resolve(out["record"], "record"))
    return out


@command(uri=TEXT, _optional={"options": OBJECT})
def _open(c: Context, uri: str, options: dict[str, Any] | None = None) -> Any:
    live = sources.is_live(uri)
    return {"source": c.session.open(allowed_uri(c.roots, uri), allowed_options(c.roots, options or {}, live=live))}


@command(name=TEXT, _optional={"options": OBJECT})
def _connect(c: Context, name: str, options: dict[str, Any] | None = None) -> Any:
    found = detectors.by_name(name)
    return {"source": c.session.open(found.url, {**found.options, **allowed_options(c.roots, options or {}, live=True)})}


@command(_optional={"uri": TEXT, "name": TEXT})
def _announced(c: Context, uri: str | None = None, name: str | None = None) -> Any:
    if (uri is None) == (name is None):
        raise UsageError("announced needs uri or name, one of them")
    return detectors.announced(allowed_uri(c.roots, uri) if uri is not None else detectors.by_name(str(name)).url)


@command()
def _close(c: Context) -> Any:
    c.session.close_source()


@command(True, uri=TEXT, _optional={"options": OBJECT})
def _probe(c: Context, uri: str, options: dict[str, Any] | None = None) -> Any:
    live = sources.is_live(uri)
    found = sources.probe(allowed_uri(c.roots, uri), allowed_options(c.roots, options or {}, live=live))
    return {**{k: v for k, v in found.items() if k != "options"}, "fields": fields_of(found["options"])}


@command(True, _optional={"path": TEXT})
def _files(c: Context, path: str | None = None) -> Any:
    return c.roots.listing(path, {f["name"]: f["suffixes"] for f in sources.formats()}, sources.folder_format)


@command(True)
def _udfs(c: Context) -> Any:
    out = []
    for e in c.session.catalog.entries():
        fields = fields_of(e.schema()) if e.cls is not None else []
        out.append(
            {"name": e.name, "title": e.name.rpartition(":")[2], "summary": first_sentence(e.doc), "doc": e.doc, "own": bool(e.file),
             "file": e.file or None, "fields": fields, "handles": handles_of(fields), "error": e.error or None}
        )  # fmt: skip
    return {"version": c.session.catalog.version, "udfs": out}


@command(True)
def _formats(c: Context) -> Any:
    found = [{"name": f["name"], "suffixes": f["suffixes"], "fields": fields_of(f["options"])} for f in sources.formats()]
    there, wrong = detectors.configured()
    return {
        "formats": found, "detectors": [{**d, "fields": []} for d in sources.detectors()],
        "configured": [d.json() for d in there], "configured_error": wrong or None,
    }  # fmt: skip


# -- analyses ----------------------------------------------------------------------------------------------------------


def with_files(c: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in which {"file": path} is replaced by what the file holds."""
    return {
        k: looking.array_file(c.roots.resolve(v["file"], k)) if isinstance(v, dict) and set(v) == {"file"} else v for k, v in params.items()
    }


@command(udf=TEXT, _optional={"params": OBJECT, "channel": TEXT, "title": TEXT, "id": TEXT})
def _add(c: Context, udf: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
    return {"id": c.session.analyses.add(udf, with_files(c, params or {}), **more)}


@command(id=TEXT)
def _remove(c: Context, id: str) -> Any:
    c.session.analyses.remove(id)


@command(id=TEXT)
def _duplicate(c: Context, id: str) -> Any:
    return {"id": c.session.analyses.duplicate(id)}


@command(id=TEXT, title=TEXT)
def _rename(c: Context, id: str, title: str) -> Any:
    c.session.analyses.rename(id, title)


@command(order=LIST)
def _arrange(c: Context, order: list[str]) -> Any:
    c.session.analyses.arrange(order)


@command(id=TEXT, _optional={"channel": TEXT})
def _channel(c: Context, id: str, channel: str | None = None) -> Any:
    c.session.analyses.set_channel(id, channel)


@command(id=TEXT, params=OBJECT)
def _set(c: Context, id: str, params: dict[str, Any]) -> Any:
    return {"gen": c.session.analyses.set(id, with_files(c, params))}


@command(id=TEXT)
def _reset(c: Context, id: str) -> Any:
    return {"gen": c.session.analyses.reset(id)}


@command(_optional={"ids": LIST})
def _run(c: Context, ids: list[str] | None = None) -> Any:
    c.session.run(ids)


@command()
def _cancel(c: Context) -> Any:
    c.session.cancel()


@command(on=FLAG)
def _auto(c: Context, on: bool) -> Any:
    c.session.set_auto(on)


@command(_optional={"shape": OBJECT})
def _roi(c: Context, shape: dict[str, Any] | None = None) -> Any:
    c.session.set_roi(shape)


@command(_optional={"dark": TEXT, "gain": TEXT, "excluded": (list, dict), "on": FLAG})
def _corrections(c: Context, **given: Any) -> Any:
    source = c.session.source
    if source is None:
        raise UsageError("nothing is open")
    shown, made = corrected(c.session.corrections, given, source.meta.shape.sig, c.roots.resolve)
    c.session.set_corrections(made, shown)


# -- looking -----------------------------------------------------------------------------------------------------------


@command(True, _optional={"channel": TEXT})
def _auto_centre(c: Context, channel: str | None = None) -> Any:
    return looking.bright_disk(c.session, channel)


@command(True, topic=TEXT, y=(int,), x=(int,), _optional={"at": LIST, "channel": TEXT})
def _pixel(c: Context, topic: str, y: int, x: int, at: list[int] | None = None, channel: str | None = None) -> Any:
    return {"value": c.hub.pixel(Key(topic, position(at), channel), y, x)}


@command(topic=TEXT, title=TEXT)
def _pin(c: Context, topic: str, title: str) -> Any:
    return {"id": c.session.records.pin(topic, title)}


@command(id=TEXT)
def _unpin(c: Context, id: str) -> Any:
    c.session.records.unpin(id)


# -- keeping -----------------------------------------------------------------------------------------------------------


@command(_optional={"name": TEXT, "ids": LIST})
def _save(c: Context, name: str | None = None, ids: list[str] | None = None) -> Any:
    path: Path = c.session.records.save(name, ids)
    return {"path": str(path), "bytes": path.stat().st_size}


@command(True, kind=TEXT)
def _code(c: Context, kind: str) -> Any:
    return code.generate(c.session, kind)


@command(id=TEXT)
def _history_open(c: Context, id: str) -> Any:
    return {"source": c.session.records.reopen(id)}


@command(id=TEXT)
def _history_remove(c: Context, id: str) -> Any:
    c.session.records.forget(id)


@command(name=TEXT)
def _setup_save(c: Context, name: str) -> Any:
    c.session.records.save_setup(name)


@command(name=TEXT)
def _setup_load(c: Context, name: str) -> Any:
    c.session.records.load_setup(name)


@command(name=TEXT)
def _setup_remove(c: Context, name: str) -> Any:
    c.session.records.remove_setup(name)


@command(layout=ANY)
def _layout(c: Context, layout: Any) -> Any:
    c.session.records.set_layout(layout)


@command()
def _clear_log(c: Context) -> Any:
    c.session.clear_log()


# -- live --------------------------------------------------------------------------------------------------------------


def _following(c: Context) -> Any:
    if c.session.follow is None:
        raise UsageError("no detector is connected")
    return c.session.follow


@command(_optional={"settings": OBJECT})
def _arm(c: Context, settings: dict[str, Any] | None = None) -> Any:
    if not all(k.isidentifier() for k in settings or {}):
        raise UsageError("arm: settings are names and values")
    return {"run": _following(c).arm(settings or {})}


@command()
def _trigger(c: Context) -> Any:
    _following(c).detector.trigger()


@command()
def _disarm(c: Context) -> Any:
    _following(c).disarm()


@command(on=FLAG)
def _follow(c: Context, on: bool) -> Any:
    _following(c).follow = on
    c.session.changed()


def position(at: Any) -> tuple[int, ...] | None:
    """A scan position of JSON. Raises UsageError."""
    if at is None:
        return None
    if not isinstance(at, list) or len(at) > 8 or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in at):
        raise UsageError(f"at is a scan position [y, x], got {at!r:.80}")
    return tuple(at)


def kind_of(exc: BaseException) -> str:
    """The `kind` of an error for a reply."""
    if isinstance(exc, NotInControl):
        return "control"
    if isinstance(exc, UsageError):
        return "usage"
    return "failed" if isinstance(exc, (LibstreamError, OSError, MemoryError)) else "fault"


def error_json(exc: BaseException) -> dict[str, str]:
    """An error for a reply."""
    kind = kind_of(exc)
    text = str(exc) or type(exc).__name__
    return {"message": text if kind != "fault" else f"unexpected {type(exc).__name__}: {text} (a fault of libstream)", "kind": kind}
