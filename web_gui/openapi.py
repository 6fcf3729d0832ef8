"""The description of the HTTP interface, for tools that make clients of it. Pure."""

from __future__ import annotations

from typing import Any


def describe(version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    from libstream.web_gui.commands import COMMANDS

    commands = {
        f"/api/cmd/{name}": {"post": _operation(f"command {name}", f"cmd_{name}", body=_arguments(c.required, c.optional), free=c.free)}
        for name, c in COMMANDS.items()
    }
    for name in ("take_control", "release_control"):
        commands[f"/api/cmd/{name}"] = {"post": _operation(f"command {name}", f"cmd_{name}", body=_arguments({}, {}), free=True)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "libstream serve", "version": version, "license": {"name": "MIT"},
            "description": "Everything that the page does. What commands take and give: docs/reference/gui-protocol.md.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"cookie": []}],
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "libstream-PORT"},
            },
            "schemas": {
                "Error": {
                    "type": "object", "required": ["error"],
                    "properties": {"error": {"type": "object", "required": ["message", "kind"], "properties": {
                        "message": {"type": "string"}, "kind": {"enum": ["usage", "control", "failed", "fault"]}}}},
                },
            },
        },
        "paths": {**_paths(), **commands},
    }  # fmt: skip


def _paths() -> dict[str, Any]:
    opening = _arguments({"uri": (str,)}, {"options": (dict,)})
    adding = _arguments({"udf": (str,)}, {"params": (dict,), "channel": (str,), "title": (str,), "id": (str,)})
    changing = _arguments({}, {"params": (dict,), "title": (str,), "channel": (str,)})
    id_, output = _inside("id"), _inside("output")
    picture = [_query("map"), _query("lo", "number"), _query("hi", "number")]
    return {
        "/api/status": {"get": _operation("state, and what changes all the time", "status")},
        "/api/udfs": {"get": _operation("UDFs with their forms", "udfs")},
        "/api/formats": {"get": _operation("formats and detectors", "formats")},
        "/api/files": {"get": _operation("what a folder holds", "files", query=[_query("path")])},
        "/api/probe": {"get": _operation("what a file is", "probe", query=[_query("uri", needed=True)])},
        "/api/source": {
            "get": _operation("what is open", "source"),
            "put": _operation("open a file, or connect to a detector", "open_source", body=opening),
            "delete": _operation("close it", "close_source"),
        },
        "/api/analyses": {
            "get": _operation("all analyses", "analyses"),
            "post": _operation("add one", "add_analysis", body=adding, good="201"),
        },
        "/api/analyses/{id}": {
            "parameters": [id_],
            "get": _operation("one analysis", "analysis"),
            "patch": _operation("change it", "change_analysis", body=changing),
            "delete": _operation("remove it", "remove_analysis", good="204"),
        },
        "/api/run": {
            "get": _operation("how far it is; wait: seconds until all is done, at most", "run_state", query=[_query("wait", "number")]),
            "post": _operation("run anew", "start_run", body=_arguments({}, {"ids": (list,)})),
            "delete": _operation("stop", "cancel_run"),
        },
        "/api/results.h5": {"get": _operation("all results, with provenance", "results", kind="application/x-hdf5")},
        "/api/results/{id}/{output}.npy": {
            "parameters": [id_, output],
            "get": _operation("one result (ragged ones as .npz)", "result_npy", kind="application/octet-stream"),
        },
        "/api/results/{id}/{output}.png": {
            "parameters": [id_, output],
            "get": _operation("one result as a picture", "result_png", query=[*picture, _query("plane", "integer")], kind="image/png"),
        },
        "/api/results/{id}/{output}.tif": {
            "parameters": [id_, output],
            "get": _operation("one result as TIFF", "result_tif", query=[_query("plane", "integer")], kind="image/tiff"),
        },
        "/api/frame.npy": {
            "get": _operation("one frame", "frame_npy", query=[_query("at"), _query("channel")], kind="application/octet-stream")
        },
        "/api/frame.png": {
            "get": _operation("one frame as a picture", "frame_png", query=[_query("at"), _query("channel"), *picture], kind="image/png")
        },
        "/api/topics/{topic}.npy": {
            "parameters": [_inside("topic")],
            "get": _operation("what is shown under a topic", "topic_npy", query=[_query("channel")], kind="application/octet-stream"),
        },
        "/api/topics/{topic}.tif": {
            "parameters": [_inside("topic")],
            "get": _operation("what is shown under a topic, as TIFF", "topic_tif", query=[_query("channel")], kind="image/tiff"),
        },
        "/api/history/{id}/thumb.png": {"parameters": [id_], "get": _operation("thumbnail of a past run", "thumb", kind="image/png")},
        "/api/openapi.json": {"get": _operation("this", "openapi")},
    }


def _operation(
    summary: str, name: str, *, query: list[Any] | None = None, body: Any = None, kind: str = "application/json", good: str = "200",
    free: bool = False,
) -> dict[str, Any]:  # fmt: skip
    error = {"description": "error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answer: dict[str, Any] = {"description": "done"}
    if good != "204":
        answer["content"] = {kind: {"schema": {} if kind == "application/json" else {"type": "string", "format": "binary"}}}
    out: dict[str, Any] = {"summary": summary, "operationId": name, "responses": {good: answer, "default": error}}
    if query:
        out["parameters"] = query
    if body is not None:
        out["requestBody"] = {"content": {"application/json": {"schema": body}}}
        out["description"] = "May be used by anyone." if free else "Needs control (409 where someone else has it)."
    return out


def _arguments(required: Any, optional: Any) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "required": list(required),
        "properties": {k: _type(v, k in optional) for k, v in {**required, **optional}.items()},
    }  # fmt: skip


def _type(types: tuple[type, ...], nullable: bool) -> dict[str, Any]:
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object", bool: "boolean"}
    found = [names[t] for t in types if t in names]
    if not found:
        return {}
    found = ["number"] if set(found) == {"integer", "number"} else found
    return {"type": [*found, "null"] if nullable else found[0] if len(found) == 1 else found}


def _query(name: str, kind: str = "string", *, needed: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": needed, "schema": {"type": kind}}


def _inside(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
