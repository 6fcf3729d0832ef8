"""Who may come in: a token, a cookie for it, and checks of where a request comes from. Pure: no Tornado."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from libstream.errors import UsageError

TOKEN_MIN = 16
FAILURES, WINDOW_S = 10, 60.0
"""So many wrong tokens within so many seconds: then none is looked at until these are over."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class TooManyFailures(Exception):
    """Wrong tokens came too often; no token is looked at for a while."""


def new_token() -> str:
    """192 random bits as text."""
    return secrets.token_urlsafe(24)


def checked_token(token: str) -> str:
    """`token`, stripped. Raises UsageError where it is too short to keep anyone out."""
    token = token.strip()
    if len(token) < TOKEN_MIN or not token.isascii() or any(c.isspace() for c in token):
        raise UsageError(f"a token has {TOKEN_MIN} characters or more, without spaces; got {len(token)}. Leave it out for a random one")
    return token


class Auth:
    """Checks tokens and cookies. The cookie is worth nothing without the token: it is signed with a key made of it, and outlives a
    restart with the same token."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self._key = hashlib.sha256(b"libstream cookie " + self._token).digest()
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=FAILURES)

    def token_is_right(self, given: str) -> bool:
        """Compare in constant time. Raises TooManyFailures."""
        now = self._clock()
        if len(self._failures) == FAILURES and now - self._failures[0] < WINDOW_S:
            raise TooManyFailures
        if hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(self._token).digest()):
            return True
        self._failures.append(now)
        return False

    def new_cookie(self) -> str:
        """Value of a cookie for someone who had the token."""
        who = secrets.token_urlsafe(12)
        return f"{who}.{self._sign(who)}"

    def cookie_is_right(self, given: str | None) -> bool:
        """True for a cookie of `new_cookie`, of this server or one before it with the same token."""
        who, _, sign = (given or "").partition(".")
        return bool(who) and hmac.compare_digest(sign.encode(), self._sign(who).encode())

    def _sign(self, who: str) -> str:
        return hmac.new(self._key, who.encode(), hashlib.sha256).hexdigest()


class Names:
    """Which `Host` and `Origin` are this server's: against pages of other sites, and names that are made to point here.

    proxies: names of proxies. Some ask under the name of this machine and pass on the browser's `Origin`, which is theirs.
    """

    def __init__(self, names: Iterable[str], scheme: str, proxies: Iterable[str] = ()) -> None:
        self._proxies = {n.lower().rstrip(".") for n in proxies}
        self._names = {n.lower().rstrip(".") for n in names} | self._proxies
        self._scheme = scheme

    def host_is_ours(self, host: str) -> bool:
        """The name in a `Host` header, with or without a port."""
        return _without_port(host) in self._names

    def origin_is_ours(self, origin: str | None, host: str) -> bool:
        """No `Origin` (no browser), or that of a page which this server gave out under the name `host`."""
        if origin is None:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme in ("http", "https") and _without_port(parts.netloc) in self._proxies:
            return True
        # behind a proxy that speaks TLS, the page's scheme is https though ours is http
        return parts.scheme in {self._scheme, "https"} and parts.netloc.lower() == host.lower() and self.host_is_ours(parts.netloc)


def _without_port(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rsplit(":", 1)[0].rstrip(".") if host.count(":") <= 1 else host


class Control:
    """Who is in control: one viewer at a time, others look on. Pure; times in seconds.

    Whoever leaves keeps it for `GRACE_S`, so that a page that is loaded again, or a connection that breaks, loses nothing.
    """

    GRACE_S = 30.0
    API_S = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.holder: str | None = None
        self._until: float | None = None

    def take(self, client: str, *, for_s: float | None = None) -> None:
        """`client` is in control from now on; for so many seconds, None = until it leaves."""
        self.holder = client
        self._until = None if for_s is None else self._clock() + for_s

    def may(self, client: str, *, for_s: float | None = None) -> bool:
        """True where `client` is in control; where nobody is, it gets it."""
        self.tidy()
        if self.holder not in (None, client):
            return False
        self.take(client, for_s=for_s)
        return True

    def left(self, client: str) -> None:
        """The last connection of `client` was closed."""
        if self.holder == client:
            self._until = self._clock() + self.GRACE_S

    def back(self, client: str) -> None:
        """`client` is connected (again)."""
        if self.holder == client:
            self._until = None

    def release(self, client: str) -> None:
        """`client` gives control away."""
        if self.holder == client:
            self.holder, self._until = None, None

    def tidy(self) -> bool:
        """Take control from who has been away too long; True where that happened."""
        if self._until is not None and self._clock() >= self._until:
            self.holder, self._until = None, None
            return True
        return False
