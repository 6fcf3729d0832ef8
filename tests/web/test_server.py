"""Pages and the server: state, arrays at the pace of each page, newest parameters, control, ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

import libstream as ls
from libstream.web_gui import viewer
from tests.web.client import Page
from tests.web.serving import FRAMES, Served, served
from tests.web.sessions import OWN


def run(test: Callable[[Served], Awaitable[None]], folder: Path, **options: object) -> None:
    async def main() -> None:
        async with served(folder / "data", **options) as s:
            await asyncio.wait_for(test(s), 200)

    asyncio.run(main())


def adf(**params: object) -> np.ndarray:
    return np.asarray(ls.run(FRAMES, ls.udfs.VirtualDetector(**params))["intensity"])


async def opened(s: Served, **params: object) -> Page:
    page = await Page.open(s.url)
    await page.cmd("open", uri=s.scan)
    await page.cmd("add", udf="VirtualDetector", id="adf", params=params or {"outer": 8})
    await page.sub("a/adf/intensity")
    await page.until(lambda: page.headers.get("a/adf/intensity", {}).get("final"))
    return page


def test_a_page_sees_the_scan_and_the_image_follows(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s, outer=8)
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8))
        gen = page.state["analyses"]["adf"]["gen"]
        for inner in (1, 2, 3, 4.5):
            gen += 1
            await page.send(type="set", analysis="adf", params={"inner": inner}, gen=gen)
        await page.until(lambda: page.headers["a/adf/intensity"]["gen"] == gen)
        await page.until(lambda: page.headers["a/adf/intensity"]["exact"] and page.headers["a/adf/intensity"]["final"])
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(inner=4.5, outer=8))
        await page.until(lambda: page.state["analyses"]["adf"]["shown_gen"] == gen)
        assert page.state["analyses"]["adf"]["params"]["inner"] == 4.5
        await page.until(lambda: page.state["run"]["state"] == "done")
        await page.sub("frame", at=[3, 4])
        await page.until(lambda: "frame" in page.arrays)
        assert np.array_equal(page.arrays["frame"], FRAMES[3, 4])
        await page.sub("frame", at=[5, 6])
        await page.until(lambda: page.headers["frame"]["at"] == [5, 6])
        assert np.array_equal(page.arrays["frame"], FRAMES[5, 6])
        await page.sub("frame/mean")
        await page.until(lambda: "frame/mean" in page.arrays and page.headers["frame/mean"]["final"])
        assert np.allclose(page.arrays["frame/mean"], FRAMES.mean(axis=(0, 1)))
        assert (await page.cmd("pixel", topic="a/adf/intensity", y=2, x=3))["value"] == adf(inner=4.5, outer=8)[2, 3]
        await page.until(lambda: page.stat)
        assert page.stat["server"]["viewers"] == 1

    run(test, tmp_path)


def test_credit_is_one_and_who_does_not_paint_gets_nothing_more(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s)
        stalled = await Page.open(s.url, client="client-two", paints=False)
        await stalled.sub("a/adf/intensity")
        await stalled.until(lambda: "a/adf/intensity" in stalled.arrays)
        for i in range(12):
            gen = page.state["analyses"]["adf"]["gen"] + 1
            await page.send(type="set", analysis="adf", params={"inner": i % 5}, gen=gen)
            await page.until(lambda g=gen: page.headers["a/adf/intensity"]["gen"] >= g)
        assert len(stalled.received["a/adf/intensity"]) == 1
        await stalled.ack("a/adf/intensity")
        await stalled.until(lambda: len(stalled.received["a/adf/intensity"]) == 2)
        assert stalled.headers["a/adf/intensity"]["gen"] == page.headers["a/adf/intensity"]["gen"], "the newest, not the next"
        await stalled.send(type="ack", topic="a/adf/intensity", v=-1)  # not what was sent
        await asyncio.sleep(0.5)
        assert len(stalled.received["a/adf/intensity"]) == 2

    run(test, tmp_path)


def test_a_page_that_reads_nothing_slows_no_other_and_takes_no_memory(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s)
        deaf = await Page.open(s.url, client="client-two")
        deaf.reads.clear()  # from here on it reads nothing: its socket fills up
        await deaf.sub("a/adf/intensity")
        times = []
        for i in range(30):
            await deaf.send(type="cmd", id=i, name="udfs", args={})  # 20 kB each that it does not take
            gen = page.state["analyses"]["adf"]["gen"] + 1
            before = time.monotonic()
            await page.send(type="set", analysis="adf", params={"inner": i % 5}, gen=gen)
            await page.until(lambda g=gen: page.headers["a/adf/intensity"]["gen"] >= g)
            times.append(time.monotonic() - before)
        assert np.median(times) < 1.0
        (waiting,) = [v for v in s.server.viewers if v.client == "client-two"]
        assert len(waiting._outbox) < 100
        assert sum(x.in_flight is not None for x in waiting.subs.values()) <= 1

    run(test, tmp_path)


def test_many_commands_and_much_silence_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "SILENT_S", 0.3)
    monkeypatch.setattr(viewer, "HELLO_S", 0.3)

    async def test(s: Served) -> None:
        mute = await Page.open(s.url, hello=False)
        page = await opened(s)
        stalled = await Page.open(s.url, client="client-two", paints=False)
        await stalled.sub("a/adf/intensity")
        await stalled.until(lambda: "a/adf/intensity" in stalled.arrays)
        async with asyncio.timeout(10):
            while not (stalled.closed and mute.closed):
                await asyncio.sleep(0.02)
        assert not page.closed
        assert len(page.state["viewers"]) == 1 or await page.until(lambda: len(page.state["viewers"]) == 1) is None

    run(test, tmp_path)


def test_who_comes_back_gets_everything(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s, outer=7)
        me = page.welcome["you"]
        await page.close()
        again = await Page.open(s.url)
        assert again.welcome["you"] == me
        assert again.snapshots == 1
        assert again.state["analyses"]["adf"]["params"]["outer"] == 7
        await again.sub("a/adf/intensity")
        await again.until(lambda: "a/adf/intensity" in again.arrays)
        assert again.headers["a/adf/intensity"]["whole"]
        assert np.array_equal(again.arrays["a/adf/intensity"], adf(outer=7))
        assert again.state["control"]["viewer"] == me

    run(test, tmp_path)


def test_the_server_comes_back_with_what_was_open(tmp_path: Path) -> None:
    async def first(s: Served) -> None:
        page = await opened(s, outer=6)
        await page.close()

    run(first, tmp_path)

    async def second(s: Served) -> None:
        uri, options = s.session.records.last()
        await s.server.call(s.session.open, uri, options)
        page = await Page.open(s.url)
        await page.sub("a/adf/intensity")
        await page.until(lambda: page.headers.get("a/adf/intensity", {}).get("final"))
        assert np.array_equal(page.arrays["a/adf/intensity"], adf(outer=6))

    run(second, tmp_path)


def test_one_is_in_control_and_the_others_look_on(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        one = await opened(s)
        two = await Page.open(s.url, client="client-two")
        await two.sub("a/adf/intensity")
        await two.until(lambda: "a/adf/intensity" in two.arrays)
        assert two.state["control"]["viewer"] == one.welcome["you"] != two.welcome["you"]
        with pytest.raises(RuntimeError, match="control:"):
            await two.cmd("remove", id="adf")
        await two.send(type="set", analysis="adf", params={"inner": 3}, gen=99)
        await two.until(lambda: two.refused)
        assert two.refused[0]["error"]["kind"] == "control"
        assert (await two.cmd("udfs"))["udfs"]
        assert (await s.ask("/api/cmd/remove", "POST", json={"id": "adf"})).code == 409
        await two.cmd("take_control")
        await one.until(lambda: one.state["control"]["viewer"] == two.welcome["you"])
        with pytest.raises(RuntimeError, match="control:"):
            await one.cmd("cancel")
        gen = two.state["analyses"]["adf"]["gen"] + 1
        await two.send(type="set", analysis="adf", params={"inner": 3}, gen=gen)
        for page in (one, two):
            await page.until(lambda p=page: p.headers["a/adf/intensity"]["gen"] == gen and p.headers["a/adf/intensity"]["final"])
            assert np.array_equal(page.arrays["a/adf/intensity"], adf(inner=3, outer=8))
        await two.cmd("release_control")
        await one.until(lambda: one.state["control"] is None)
        await one.cmd("cancel")
        assert one.state["control"]["viewer"] == one.welcome["you"]

    run(test, tmp_path)


def test_a_udf_that_raises_is_told_and_the_server_goes_on(tmp_path: Path) -> None:
    own = tmp_path / "udfs"
    own.mkdir()
    (own / "mine.py").write_text(OWN.replace("FACTOR", "1"))

    async def test(s: Served) -> None:
        page = await opened(s)
        await page.cmd("add", udf="mine.py:Raises", id="bad")
        await page.until(lambda: page.state["analyses"]["bad"]["state"] == "failed")
        assert "this is too much" in page.state["analyses"]["bad"]["error"]["message"]
        await page.cmd("set", id="adf", params={"inner": 1})
        await page.until(lambda: page.state["analyses"]["adf"]["state"] == "done")
        found = {u["name"]: u for u in (await page.cmd("udfs"))["udfs"]}
        assert found["mine.py:Raises"]["own"]
        with pytest.raises(RuntimeError, match="usage: there is no UDF"):
            await page.cmd("add", udf="mine.py:Nothing")
        with pytest.raises(RuntimeError, match=r"usage: VirtualDetector: shape"):
            await page.cmd("set", id="adf", params={"shape": "star"})

    run(test, tmp_path, own=own)


def test_cancel_stops_the_work(tmp_path: Path) -> None:
    own = tmp_path / "udfs"
    own.mkdir()
    (own / "mine.py").write_text(OWN.replace("FACTOR", "1"))

    async def test(s: Served) -> None:
        page = await Page.open(s.url)
        await page.cmd("open", uri=s.scan)
        await page.cmd("add", udf="mine.py:Slow", id="slow", params={"seconds": 0.03})
        await page.until(lambda: page.stat.get("run") and page.stat["run"]["n_done"] > 0)
        await page.cmd("cancel")
        await page.until(lambda: page.state["analyses"]["slow"]["state"] == "incomplete")
        await page.until(lambda: page.state["run"]["state"] == "incomplete")
        done = np.isfinite(s.session.store.get("a/slow/value").array).sum()
        await asyncio.sleep(0.3)
        assert np.isfinite(s.session.store.get("a/slow/value").array).sum() == done < FRAMES.shape[0] * FRAMES.shape[1]

    run(test, tmp_path, own=own)


@pytest.mark.parametrize(
    "message",
    [
        "", "[]", "{}", "null", '{"type": "sub"}', '{"type": "sub", "topic": 3}', '{"type": "sub", "topic": "x", "at": [1.5]}', "{" * 5000,
        '{"type": "sub", "topic": "frame", "at": [-1, 0]}', '{"type": "ack"}', '{"type": "hello", "proto": 1, "client": "client-one"}',
        '{"type": "sub", "topic": "x", "px": [0, 0]}', '{"type": "boom"}', '{"type": "seen", "t": "x"}', '{"type": "cmd", "id": 1}',
        '{"type": "set", "analysis": 3, "params": []}', '{"type": "cmd", "id": [], "name": ["x"], "args": 3}', '{"type": "unsub"}',
    ],
)  # fmt: skip
def test_nonsense_is_answered_and_does_no_harm(tmp_path: Path, message: str) -> None:
    async def test(s: Served) -> None:
        page = await Page.open(s.url)
        await page.connection.write_message(message)
        await page.connection.write_message(b"\0\1\2")
        assert (await page.cmd("files"))["entries"][0]["name"] == "scan.npy"

    run(test, tmp_path)


def test_topics_that_are_not_there_do_no_harm_and_appear_later(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await Page.open(s.url)
        for topic in ("a/adf/intensity", "a/x", "frame/x", "frame", "r/a/b/c", "../..", "a/adf/intensity/7", "h/1/2/3", "p/", "_"):
            await page.sub(topic)
        await page.cmd("open", uri=s.scan)
        await page.cmd("add", udf="VirtualDetector", id="adf")
        await page.until(lambda: "a/adf/intensity" in page.arrays)
        await page.until(lambda: "frame" in page.arrays)
        assert set(page.arrays) == {"a/adf/intensity", "frame"}

    run(test, tmp_path)


def test_planes_vectors_lines_and_records(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await Page.open(s.url)
        await page.cmd("open", uri=s.scan)
        await page.cmd("add", udf="CenterOfMass", id="com")
        await page.cmd("add", udf="RadialProfile", id="rp", params={"max_order": 1})
        await page.cmd("add", udf="LocalMaxima", id="lm", params={"threshold": 12})
        expected = ls.run(
            FRAMES, {"com": ls.udfs.CenterOfMass(), "rp": ls.udfs.RadialProfile(max_order=1), "lm": ls.udfs.LocalMaxima(threshold=12)}
        )
        await page.until(lambda: all(a["state"] == "done" for a in page.state["analyses"].values()))
        shown = {f"{k}/{o['name']}": o["display"] for k, a in page.state["analyses"].items() for o in a["outputs"]}
        assert shown["com/com"] == "vector"
        assert shown["rp/mean_profile"] == "line"
        assert shown["lm/peaks"] == "ragged"
        for topic in ("a/com/com", "a/rp/mean_profile", "a/rp/sums/3", "a/rp/coefficients/5", "r/lm/peaks/count"):
            await page.sub(topic)
            await page.until(lambda t=topic: t in page.arrays)
        assert np.allclose(page.arrays["a/com/com"], expected["com"]["com"], equal_nan=True)
        assert np.allclose(page.arrays["a/rp/mean_profile"], expected["rp"]["mean_profile"])
        assert np.allclose(page.arrays["a/rp/sums/3"], expected["rp"]["sums"][..., 3])
        plane = expected["rp"]["coefficients"].reshape(16, 20, -1)[..., 5]
        assert np.allclose(page.arrays["a/rp/coefficients/5"], np.stack([plane.real, plane.imag], axis=-1), equal_nan=True)
        peaks = expected["lm"]["peaks"]
        assert np.array_equal(page.arrays["r/lm/peaks/count"], peaks.counts)
        busiest = [int(i) for i in np.unravel_index(np.argmax(peaks.counts), peaks.counts.shape)]
        await page.sub("r/lm/peaks", at=busiest)
        await page.until(lambda: "r/lm/peaks" in page.arrays)
        records = peaks[tuple(busiest)]
        assert page.headers["r/lm/peaks"]["fields"] == ["y", "x", "value"]
        assert np.array_equal(page.arrays["r/lm/peaks"], np.stack([records[n] for n in ("y", "x", "value")], axis=-1))

    run(test, tmp_path)


def test_the_end_is_said_and_quick(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "data") as s:
            page = await opened(s)
            deaf = await Page.open(s.url, client="client-two")
            deaf.reads.clear()
            before = time.monotonic()
            assert await s.server.stop()
            assert time.monotonic() - before < 3
            await page.until(lambda: page.bye)
            assert page.bye == "shutdown"

    asyncio.run(main())


def test_frames_are_shown_as_they_are_processed(tmp_path: Path) -> None:
    async def test(s: Served) -> None:
        page = await opened(s)
        await page.sub("frame", at=[1, 2])
        await page.until(lambda: "frame" in page.arrays)
        np.save(s.folder / "dark.npy", np.full((24, 24), 2.0))
        hot = {"kind": "rectangle", "y0": 3, "x0": 4, "y1": 4, "x1": 5}
        await page.cmd("corrections", dark="dark.npy", excluded=[hot])
        corrections = ls.Corrections(dark=np.full((24, 24), 2.0), excluded=np.arange(576).reshape(24, 24) == 3 * 24 + 4)
        await page.until(lambda: np.allclose(page.arrays["frame"], corrections.apply(FRAMES[1, 2])))
        assert page.state["corrections"] == {
            "dark": str(s.folder / "dark.npy"), "gain": None, "excluded": 1, "shapes": [hot], "on": True,
        }  # fmt: skip
        expected = ls.run(FRAMES, ls.udfs.VirtualDetector(outer=8), corrections=corrections)["intensity"]
        await page.until(lambda: np.allclose(page.arrays["a/adf/intensity"], expected))
        await page.cmd("corrections", on=False)
        await page.until(lambda: np.array_equal(page.arrays["frame"], FRAMES[1, 2]))
        await page.until(lambda: np.array_equal(page.arrays["a/adf/intensity"], adf(outer=8)))
        await page.cmd("corrections", dark=None, excluded=None)
        assert page.state["corrections"] == {"dark": None, "gain": None, "excluded": 0, "shapes": [], "on": True}

    run(test, tmp_path)
