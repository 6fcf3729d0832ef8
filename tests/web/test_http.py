"""By HTTP: who may come in, and everything that the page does, for scripts."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from tornado.httpclient import HTTPClientError

import libstream as ls
from libstream.errors import UsageError
from tests.web.client import TOKEN, Page
from tests.web.serving import FRAMES, Served, served


def run(test: Callable[[Served], Awaitable[None]], folder: Path, **options: object) -> None:
    async def main() -> None:
        async with served(folder / "data", **options) as s:
            await asyncio.wait_for(test(s), 200)

    asyncio.run(main())


# -- who may come in ---------------------------------------------------------------------------------------------------


def test_the_link_lets_in_and_the_cookie_keeps_in(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        assert s.link == f"http://127.0.0.1:{s.server.port}/?token={TOKEN}"
        for path in ("/", "/static/app.js", "/api/status", "/api/nothing", "/nothing", "/ws"):
            got = await s.ask(path, token=None)
            assert got.code == 403, path
            assert TOKEN not in got.body.decode()
        first = await s.ask(f"/?token={TOKEN}", token=None)
        assert first.code == 200
        cookie = first.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert TOKEN not in first.body.decode()
        pair = cookie.split(";")[0]
        assert (await s.ask("/api/status", token=None, headers={"Cookie": pair})).code == 200
        assert (await s.ask("/api/status", token=None, headers={"Cookie": pair[:-1] + "_"})).code == 403
        assert (await s.ask("/?token=wrong-token", token=None)).code == 403
        assert (await s.ask("/api/status", token="wrong-token")).code == 403
        page = await Page.open(s.url, token="wrong", headers={"Cookie": pair})
        assert page.state["server"]["roots"]
        with pytest.raises(HTTPClientError, match="403"):
            await Page.open(s.url, token="wrong")

    run(test, tmp_path)


def test_guessing_is_slow_and_shuts_out_no_one_who_is_in(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        pair = (await s.ask(f"/?token={TOKEN}", token=None)).headers["Set-Cookie"].split(";")[0]
        codes = [(await s.ask(f"/?token=guess-{i}", token=None)).code for i in range(12)]
        assert codes == [403] * 10 + [429] * 2
        assert (await s.ask(f"/?token={TOKEN}", token=None)).code == 429
        assert (await s.ask("/api/status", token=None, headers={"Cookie": pair})).code == 200

    run(test, tmp_path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_names_and_other_pages_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async def test(s: Served) -> None:
        assert (await s.ask("/api/status", headers=headers)).code == 403
        assert (await s.ask("/api/cmd/close", "POST", headers=headers, json={})).code == 403
        assert (await s.ask(f"/?token={TOKEN}", headers=headers, token=None)).code == 403
        with pytest.raises(HTTPClientError, match="403"):
            await Page.open(s.url, headers=headers)
        own = {"Origin": s.url}
        assert (await s.ask("/api/status", headers=own)).code == 200
        page = await Page.open(s.url, headers=own)
        assert page.state

    run(test, tmp_path)


def test_requests_of_other_sites_pages_are_refused(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        for site, code in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            assert (await s.ask("/api/cmd/close", "POST", json={}, headers={"Sec-Fetch-Site": site})).code == code
        got = await s.ask("/api/cmd/close", "POST", body="{}", headers={"Content-Type": "text/plain"})
        assert got.code == 400

    run(test, tmp_path)


def test_the_browser_is_told_what_not_to_do(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        for path in (f"/?token={TOKEN}", "/api/status", "/api/nothing"):
            got = await s.ask(path)
            policy = got.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert got.headers["X-Content-Type-Options"] == "nosniff"
            assert got.headers["Referrer-Policy"] == "no-referrer"
            assert "Server" not in got.headers

    run(test, tmp_path)


def test_names_of_a_proxy_and_addresses_of_this_machine(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        for host, code in (
            ("gui.lab.example", 200),
            ("10.1.2.3:77", 200),
            ("evil.example", 403),
            ("[::1]:77", 200),
            ("1.2.3.4.example", 403),
        ):
            assert (await s.ask("/api/status", headers={"Host": host})).code == code, host
        proxied = {"Host": "gui.lab.example", "Origin": "https://gui.lab.example"}
        assert (await s.ask("/api/cmd/close", "POST", json={}, headers=proxied)).code == 200

    run(test, tmp_path, host="0.0.0.0", allow_hosts=("gui.lab.example",))


def test_bodies_are_bounded(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        with socket.create_connection(("127.0.0.1", s.server.port)) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            head = f"POST /api/cmd/close HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 999999999\r\n\r\n"
            await loop.sock_sendall(raw, head.encode())
            answer = await asyncio.wait_for(loop.sock_recv(raw, 4096), 10)
            assert answer == b"" or re.match(rb"HTTP/1.1 4(00|13)", answer)
        assert (await s.ask("/api/status")).code == 200

    run(test, tmp_path)


def test_https(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl to make a certificate")

    async def test(s: Served) -> None:
        assert s.link.startswith("https://")
        got = await s.ask(f"/?token={TOKEN}", token=None, validate_cert=False)
        assert "Secure" in got.headers["Set-Cookie"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        assert (await s.ask("/api/status", ssl_options=context)).code == 200

    run(test, tmp_path, certfile=cert, keyfile=key)


def test_others_are_listened_to_only_when_that_is_meant() -> None:
    from libstream.web_gui.entry import web

    for host in ("0.0.0.0", "192.168.1.2", "::", "em-pc"):
        with pytest.raises(UsageError, match="--certfile"):
            web(host=host)
    assert web(host="0.0.0.0", insecure=True)
    assert web(host="127.0.0.1")
    with pytest.raises(UsageError, match="16"):
        web(token="short")


# -- what a script does ------------------------------------------------------------------------------------------------


def test_a_script_does_what_the_page_does(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        got = await s.ask("/api/source", "PUT", json={"uri": s.scan})
        assert got.code == 200
        assert json.loads(got.body)["source"]["nav"] == [16, 20]
        made = await s.ask("/api/analyses", "POST", json={"udf": "VirtualDetector", "id": "adf", "params": {"outer": 8}})
        assert made.code == 201
        assert json.loads(made.body)["outputs"] is not None
        done = json.loads((await s.ask("/api/run?wait=60")).body)
        assert done["run"]["state"] == "done"
        array = await s.ask("/api/results/adf/intensity.npy")
        assert array.headers["X-Libstream-Complete"] == "1"
        expected = ls.run(FRAMES, ls.udfs.VirtualDetector(outer=8))["intensity"]
        loaded = np.load(io.BytesIO(array.body))
        assert loaded.dtype == expected.dtype
        assert np.array_equal(loaded, expected)
        changed = await s.ask("/api/analyses/adf", "PATCH", json={"params": {"inner": 3}, "title": "Dark field"})
        assert json.loads(changed.body)["title"] == "Dark field"
        await s.ask("/api/run?wait=60")
        expected = ls.run(FRAMES, ls.udfs.VirtualDetector(inner=3, outer=8))["intensity"]
        assert np.array_equal(np.load(io.BytesIO((await s.ask("/api/results/adf/intensity.npy")).body)), expected)
        values = np.load(io.BytesIO((await s.ask("/api/topics/a/adf/intensity.npy")).body))
        assert np.array_equal(values, expected)
        (tmp_path / "r.h5").write_bytes((await s.ask("/api/results.h5")).body)
        assert np.array_equal(ls.load_result(tmp_path / "r.h5")["adf"]["intensity"], expected)
        assert (await s.ask("/api/results/adf/intensity.png?map=gray&lo=0&hi=9")).body[:4] == b"\x89PNG"
        assert (await s.ask("/api/results/adf/intensity.tif")).body[:2] == b"II"
        frame = np.load(io.BytesIO((await s.ask("/api/frame.npy?at=3,4")).body))
        assert np.array_equal(frame, FRAMES[3, 4])
        saved = json.loads((await s.ask("/api/cmd/save", "POST", json={})).body)["result"]
        assert Path(saved["path"]).stat().st_size == saved["bytes"]
        history = json.loads((await s.ask("/api/status")).body)["state"]["history"]
        assert history[0]["saved"] == saved["path"]
        assert (await s.ask(f"/{history[0]['thumb']}")).body[:4] == b"\x89PNG"
        assert (await s.ask("/api/analyses/adf", "DELETE")).code == 204
        assert json.loads((await s.ask("/api/analyses")).body) == {"analyses": []}

    run(test, tmp_path)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        async def error(path: str, method: str = "GET", **more: object) -> tuple[int, str, str]:
            got = await s.ask(path, method, **more)
            found = json.loads(got.body)["error"]
            return got.code, found["kind"], found["message"]

        outside = await error("/api/source", "PUT", json={"uri": "/etc/passwd"})
        assert outside[:2] == (400, "usage")
        assert "--root" in outside[2]
        assert (await error("/api/files?path=/etc"))[0] == 400
        assert (await error("/api/probe?uri=/etc/passwd"))[0] == 400
        assert (await error("/api/source", "PUT", json={"uri": str(s.folder / "gone.npy")}))[:2] == (422, "failed")
        assert (await error("/api/source", "PUT", json={"uri": "gopher://x"}))[0] == 400
        assert (await error("/api/source", "PUT", json={"uri": s.scan, "options": {"nothing": 1}}))[0] == 400
        assert (await error("/api/source", "PUT", json={"uri": 3}))[0] == 400
        assert (await error("/api/analyses/none"))[0] == 404
        assert (await error("/api/results/a/b.npy"))[0] == 404
        assert (await error("/api/cmd/nothing", "POST", json={}))[0] == 404
        assert (await error("/api/cmd/add", "POST", json={"udf": "Sum", "extra": 1}))[0] == 400
        assert (await error("/api/cmd/add", "POST", json={"udf": "Nothing"}))[0] == 400
        assert (await error("/api/analyses", "POST", body="{", headers={"Content-Type": "application/json"}))[0] == 400
        assert (await error("/api/frame.npy?at=1,2"))[0] == 400
        assert (await error("/api/run?wait=soon"))[0] == 400
        assert (await s.ask("/static/../server.py")).code in (403, 404)
        assert (await s.ask("/static/..%2Fserver.py")).code in (403, 404)
        mask = {"file": "../../etc/passwd"}
        assert (await error("/api/analyses", "POST", json={"udf": "VirtualDetector", "params": {"mask": mask}}))[0] == 400

    run(test, tmp_path)


def test_probe_files_formats_and_udfs(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        (s.folder / "broken.npy").write_bytes(b"nothing")
        found = json.loads((await s.ask(f"/api/probe?uri={s.scan}")).body)
        assert (found["format"], found["nav"], found["sig"], found["error"]) == ("npy", [16, 20], [24, 24], None)
        assert found["fields"]
        broken = json.loads((await s.ask("/api/probe?uri=broken.npy")).body)
        assert broken["error"]
        listing = json.loads((await s.ask("/api/files")).body)
        assert [e["format"] for e in listing["entries"]] == ["npy", "npy"]
        formats = json.loads((await s.ask("/api/formats")).body)
        assert {"mib", "hdf5", "raw"} <= {f["name"] for f in formats["formats"]}
        assert {"dectris", "merlin"} <= {d["name"] for d in formats["detectors"]}
        udfs = json.loads((await s.ask("/api/udfs")).body)
        assert "Record" not in {u["name"] for u in udfs["udfs"]}, "writes files wherever it is told"

    run(test, tmp_path)


def test_the_description_is_complete(tmp_path: Path) -> None:
    from libstream.web_gui.commands import COMMANDS

    async def test(s: Served) -> None:
        spec = json.loads((await s.ask("/api/openapi.json")).body)
        assert spec["openapi"].startswith("3.1")
        assert {f"/api/cmd/{c}" for c in COMMANDS} <= set(spec["paths"])
        for path, item in spec["paths"].items():
            names = set(re.findall(r"{(\w+)}", path))
            assert names == {p["name"] for p in item.get("parameters", ()) if p["in"] == "path"}, path
        ids = [op["operationId"] for item in spec["paths"].values() for k, op in item.items() if k != "parameters"]
        assert len(ids) == len(set(ids))
        known = {r[0] for r in _routes(s)}
        for path in spec["paths"]:
            concrete = re.sub(r"{\w+}", "x", path)
            assert any(re.fullmatch(r, concrete) for r in known - {r"/.*"}), path

    run(test, tmp_path)


def _routes(s: Served) -> list[tuple[str, object]]:
    from libstream.web_gui import requests

    return [(r[0], r[1]) for r in requests.routes(s.server)]


def test_the_page_documents_every_command() -> None:
    from libstream.web_gui.commands import COMMANDS

    text = (Path(__file__).resolve().parents[2] / "docs/reference/gui-protocol.md").read_text(encoding="utf-8")
    section = text[text.index("## Commands") : text.index("## Forms and handles")]
    rows = {m[1]: (bool(m[2]), m[3]) for m in re.finditer(r"^\| `(\w+)`(\*?) \| (.*?) \|", section, re.M)}
    assert set(rows) == {*COMMANDS, "take_control", "release_control"}
    for name, command in COMMANDS.items():
        free, args = rows[name]
        assert free == command.free, name
        assert {a for a in (*command.required, *command.optional) if f"`{a}`" not in args and f"`{a}:" not in args} == set(), name
