"""Tokens, cookies, names, control."""

from __future__ import annotations

import pytest

from libstream.errors import UsageError
from libstream.web_gui.auth import FAILURES, WINDOW_S, Auth, Control, Names, TooManyFailures, checked_token, new_token


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_token_and_nothing_else_is_right() -> None:
    auth = Auth("correct-horse-battery")
    assert auth.token_is_right("correct-horse-battery")
    for wrong in ("", "correct-horse-batter", "correct-horse-batteryy", "Correct-horse-battery", "ü" * 30):
        assert not auth.token_is_right(wrong)


def test_too_many_wrong_tokens_close_the_door_for_a_while() -> None:
    clock = Clock()
    auth = Auth("correct-horse-battery", clock)
    for _ in range(FAILURES):
        assert not auth.token_is_right("guess")
    with pytest.raises(TooManyFailures):
        auth.token_is_right("correct-horse-battery")
    assert auth.cookie_is_right(auth.new_cookie()), "who is in stays in"
    clock.now += WINDOW_S + 1
    assert auth.token_is_right("correct-horse-battery")


def test_cookies_belong_to_the_token() -> None:
    auth = Auth("correct-horse-battery")
    cookie = auth.new_cookie()
    assert cookie != auth.new_cookie()
    assert Auth("correct-horse-battery").cookie_is_right(cookie), "a restart with the same token"
    assert not Auth("another-horse-battery").cookie_is_right(cookie)
    who, _, sign = cookie.partition(".")
    for forged in (None, "", ".", f"{who}.", f".{sign}", f"{who}x.{sign}", f"{who}.{sign[:-1]}", cookie + "0", "é.é"):
        assert not auth.cookie_is_right(forged)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a space in it 123", "ümläuts-are-not-ascii"])
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(UsageError, match="token"):
        checked_token(token)


def test_random_tokens_differ_and_pass() -> None:
    assert checked_token(new_token()) != checked_token(new_token())


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("LOCALHOST:1", True), ("localhost.:80", True), ("[::1]:8000", True),
        ("em-pc:8000", True), ("evil.example", False), ("127.0.0.1.evil.example:8000", False), ("localhost@evil.example", False),
        ("", False),
    ],
)  # fmt: skip
def test_names_of_this_server(host: str, ours: bool) -> None:
    assert Names(["127.0.0.1", "localhost", "[::1]", "em-pc"], "http").host_is_ours(host) is ours


@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        (None, True), ("http://localhost:80", True), ("https://localhost:80", True), ("http://localhost:81", False), ("null", False),
        ("http://evil.example", False), ("http://localhost:80.evil.example", False), ("file://", False),
    ],
)  # fmt: skip
def test_pages_of_this_server(origin: str | None, ours: bool) -> None:
    assert Names(["localhost"], "http").origin_is_ours(origin, "localhost:80") is ours


def test_a_proxy_may_ask_under_either_name() -> None:
    names = Names(["localhost"], "http", ["hub.example"])
    assert names.host_is_ours("hub.example")
    assert names.origin_is_ours("https://hub.example", "localhost:8123")
    assert names.origin_is_ours("https://hub.example", "hub.example")
    assert not names.origin_is_ours("https://hub.example.evil.example", "localhost:8123")
    assert not names.origin_is_ours("https://evil.example", "hub.example")
    assert not names.origin_is_ours("https://[broken", "localhost")


def test_one_is_in_control_and_keeps_it_for_a_while() -> None:
    clock = Clock()
    control = Control(clock)
    assert control.may("a")
    assert not control.may("b")
    control.left("a")
    clock.now += Control.GRACE_S - 1
    assert not control.may("b")
    control.back("a")
    clock.now += 1000
    assert not control.may("b"), "a came back in time"
    control.take("b")
    assert not control.may("a")
    control.left("b")
    clock.now += Control.GRACE_S + 1
    assert control.tidy()
    assert control.may("a")
    control.release("b")
    assert control.holder == "a"
    control.release("a")
    assert control.holder is None


def test_a_script_gives_control_up_by_itself() -> None:
    clock = Clock()
    control = Control(clock)
    assert control.may("script", for_s=60)
    clock.now += 50
    assert control.may("script", for_s=60)
    clock.now += 59
    assert not control.may("page")
    clock.now += 2
    assert control.may("page")
