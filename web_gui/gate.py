"""Who may come in, the page, and its files. Imported only by the server."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tornado.web

from libstream.web_gui import commands
from libstream.web_gui.auth import TooManyFailures

if TYPE_CHECKING:
    from libstream.web_gui.server import Server

STATIC = Path(__file__).resolve().parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Checked(tornado.web.RequestHandler):
    """Lets in who may come in, and says what a browser may do with the answer."""

    server: Server

    def initialize(self, server: Server) -> None:
        """Tornado's constructor."""
        self.server = server

    def set_default_headers(self) -> None:
        """Headers of every answer."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    def prepare(self) -> None:
        """Refuse strangers."""
        server, host = self.server, self.request.host
        if not (server.names.host_is_ours(host) or self.ours_by_address(f"//{host}")):
            raise tornado.web.HTTPError(403, reason=f"this server does not know itself as {_plain_text(host)}; start it with --allow-host")
        origin = self.request.headers.get("Origin")
        if origin is not None and not (server.names.origin_is_ours(origin, host) or self.ours_by_address(origin)):
            raise tornado.web.HTTPError(403, reason="requests from pages of other sites are refused")
        site = self.request.headers.get("Sec-Fetch-Site")
        if self.request.method not in ("GET", "HEAD") and site not in (None, "same-origin", "none"):
            raise tornado.web.HTTPError(403, reason="requests from pages of other sites are refused")
        if not self.let_in():
            raise tornado.web.HTTPError(403, reason="open the link that libstream printed when it started: it holds the token")

    def ours_by_address(self, origin: str) -> bool:
        """The bare address of this machine, where it listens to others: no name that somebody else could make point here."""
        match = re.fullmatch(r"(?:https?:)?//(\[[0-9a-fA-F:.]+\]|[0-9.]+)(:\d+)?", origin)
        if match is None or not self.server.any_address:
            return False
        try:
            ip_address(match[1].strip("[]"))
        except ValueError:
            return False
        return origin.partition("//")[2].lower() == self.request.host.lower()

    def let_in(self) -> bool:
        """A cookie, or the token in a header."""
        auth = self.server.auth
        if auth.cookie_is_right(self.get_cookie(self.cookie_name)):
            return True
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return bool(kind.lower() == "bearer" and token and self.token_is_right(token.strip()))

    def token_is_right(self, token: str) -> bool:
        """Check a token. Raises HTTPError 429 after too many wrong ones."""
        try:
            return self.server.auth.token_is_right(token)
        except TooManyFailures:
            self.set_header("Retry-After", "60")
            raise tornado.web.HTTPError(429, reason="too many wrong tokens; wait a minute") from None

    @property
    def cookie_name(self) -> str:
        """Cookies of servers on other ports of this machine are not ours, though the browser sends them, too."""
        return f"libstream-{self.server.port}"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors: JSON for scripts, text for people."""
        exc = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(exc, tornado.web.HTTPError):
            message, kind = exc.reason or HTTPStatus(status_code).phrase, "usage"
        elif exc is not None:
            found = commands.error_json(exc)
            message, kind = found["message"], found["kind"]
        else:
            message, kind = HTTPStatus(status_code).phrase, "fault"
        if self.request.path.startswith("/api/"):
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.finish(json.dumps({"error": {"message": message, "kind": kind}}))
        else:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(f"libstream: {message}\n")


class Page(Checked):
    """The page; with ?token= the way in."""

    def let_in(self) -> bool:
        """Anyone with the token, or with the cookie."""
        token = self.get_query_argument("token", None)
        if token is not None and self.token_is_right(token):
            self.set_cookie(
                self.cookie_name,
                self.server.auth.new_cookie(),
                httponly=True,
                samesite="Strict",
                path="/",
                secure=self.server.scheme == "https",
            )
            return True
        return super().let_in()

    def get(self) -> None:
        """The page, or a page that goes on to it without the token in its address."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        if self.get_query_argument("token", None) is not None:
            # not a redirect: a browser that came from another site would leave out the cookie it has just got
            self.finish(
                '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=./">'
                '<link rel="icon" href="data:,"><title>libstream</title>'
            )
            return
        self.finish((STATIC / "index.html").read_bytes())


class Static(Checked, tornado.web.StaticFileHandler):
    """Files of the page."""

    def initialize(self, server: Server, path: str) -> None:  # type: ignore[override]  # tornado passes what the route says
        """Tornado's constructor."""
        Checked.initialize(self, server)
        tornado.web.StaticFileHandler.initialize(self, path)

    def prepare(self) -> None:
        """Only for who may see the page."""
        Checked.prepare(self)
        # text a third as long; arrays are never compressed, so this is not a setting of the whole server
        self._transforms = [tornado.web.GZipContentEncoding(self.request)]

    def set_extra_headers(self, path: str) -> None:
        """Browsers ask again, and are told that nothing changed."""
        self.set_header("Cache-Control", "no-cache")


class Nothing(Checked):
    """Everything else."""

    def get(self) -> None:
        """There is nothing."""
        raise tornado.web.HTTPError(404, reason="there is nothing under this address")

    post = put = patch = delete = get


def _plain_text(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.:\[\]-]", "?", text)[:100]
