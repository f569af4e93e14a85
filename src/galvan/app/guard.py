"""Who may speak to the server: the right Host and Origin, a session that began with the printed token or the password, a CSRF token.

Every request passes here before any page of ours runs. Sessions live in memory: a new start of the server asks anew.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galvan.errors import RecipeError

COOKIE = "galvan_session"
LONGEST_BODY_BYTES = 65_536
MOST_SESSIONS = 1000
MOST_WRONG_PASSWORDS, WRONG_PASSWORD_SECONDS = 10, 60.0
SHORTEST_PASSWORD = 12
OPEN_PATHS = ("/static/", "/login")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # under no-referrer browsers send `Origin: null` with a form, which could not be told from a foreign one
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(slots=True)
class Session:
    """One browser. `rater` is who judges there; not `trusted`, it may only give the password."""

    trusted: bool
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    rater: str | None = None


class Guard:
    """The keys of one server: its one-time token or its password, and the sessions that were opened with them."""

    def __init__(
        self, host: str, port: int, password: str | None = None, public: str | None = None, open_to_all: bool = False
    ) -> None:  # fmt: skip
        """Without a password the host must be loopback, unless the pages are `open_to_all`; RecipeError otherwise, or where the password
        is short. `public` is the address under which a proxy in front of this server is reached, such as https://name.hf.space."""
        if password is None and not loopback(host) and not open_to_all:
            raise RecipeError(
                "app/password", "Only this machine may open the pages without a password; set GALVAN_APP_PASSWORD, or leave --host away."
            )  # fmt: skip
        if password is not None and len(password) < SHORTEST_PASSWORD:
            raise RecipeError(
                "app/password",
                f"The password has {len(password)} characters; {SHORTEST_PASSWORD} are the fewest for a page on a network.",
            )
        self.host, self.port = host, port
        self.public, self.open_to_all = urlsplit(public) if public else None, open_to_all and password is None
        self.token = secrets.token_urlsafe(32) if password is None and not open_to_all else None
        self._password = password
        self._sessions: dict[str, Session] = {}
        self._wrong: list[float] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def known_host(self, header: str) -> bool:
        """Is this Host header ours? A name that someone else's DNS points at us (rebinding) is not."""
        if self.public is not None and header.lower() == self.public.netloc.lower():
            return True
        name, colon, port = header.rpartition(":")
        if not colon or port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]").lower()
        if loopback(self.host):
            return name in {"127.0.0.1", "localhost", "::1"}
        if name == self.host.lower():
            return True
        return self.host in ("0.0.0.0", "::") and _is_address(name)  # of all interfaces any address may be meant, but no name

    def origin(self, host: str) -> str:
        """What a browser at our own page sends as Origin with this Host header."""
        ours = self.public is not None and host.lower() == self.public.netloc.lower()
        return f"{self.public.scheme if ours and self.public else 'http'}://{host.lower()}"

    def redeem(self, token: str) -> Response:
        """Exchange the printed token for a session, once; after that it opens nothing."""
        with self._lock:
            good = self.token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
            if good:
                self.token = None
        if not good:
            raise HTTPException(
                403, "This link was used before, or is not the one that galvan printed; start galvan app again for a new one."
            )
        response = RedirectResponse("/", 303)
        self._give(response, Session(trusted=True))
        return response

    def visitor(self, response: Response) -> Response:
        """`response` with a session: of one who may only give the password, or, where the pages are open, may use them."""
        self._give(response, Session(trusted=self.open_to_all))
        return response

    def sign_in(self, request: Request, password: str) -> Response:
        """A new, trusted session for the right password; 403 for a wrong one, 429 after too many."""
        with self._lock:
            now = time.monotonic()
            self._wrong = [at for at in self._wrong if now - at < WRONG_PASSWORD_SECONDS]
            if len(self._wrong) >= MOST_WRONG_PASSWORDS:
                raise HTTPException(429, "Too many wrong passwords; wait a minute.")
            good = self._password is not None and hmac.compare_digest(password.encode("utf-8", "replace"), self._password.encode("utf-8", "replace"))  # fmt: skip
            if not good:
                self._wrong.append(now)
                raise HTTPException(403, "This is not the password.")
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        response = RedirectResponse("/", 303)
        self._give(response, Session(trusted=True))
        return response

    def session(self, cookies: Mapping[str, str]) -> Session | None:
        with self._lock:
            return self._sessions.get(cookies.get(COOKIE, ""))

    def _give(self, response: Response, session: Session) -> None:
        name = secrets.token_urlsafe(32)
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                forgotten = next((k for k, s in self._sessions.items() if not s.trusted), next(iter(self._sessions)))
                del self._sessions[forgotten]
            self._sessions[name] = session
        secure = self.public is not None and self.public.scheme == "https"
        response.set_cookie(COOKIE, name, httponly=True, samesite="strict", path="/", secure=secure)

    @property
    def asks_password(self) -> bool:
        return self._password is not None


def loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Gate:
    """ASGI middleware: refuses foreign hosts, foreign origins and requests without a session, and puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: there is none
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
                message["headers"] = [(k, v) for k, v in message["headers"] if k not in ours] + list(ours.items())
            await send(message)

        request = Request(scope, receive)
        refused = self._refused(request)
        if refused is not None:
            await refused(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)

    def _refused(self, request: Request) -> Response | None:
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or not self.guard.known_host(hosts[0]):
            return _plain(403, "This address is not the one that galvan printed.")
        own = self.guard.origin(hosts[0])
        if any(origin.lower() != own for origin in origins) or (request.method not in ("GET", "HEAD") and not origins):
            return _plain(403, "The request comes from another page than ours.")
        session = self.guard.session(request.cookies)
        request.scope["state"] = {**request.scope.get("state", {}), "session": session}
        redeems = request.url.path == "/" and request.method == "GET" and "token" in request.query_params
        if redeems or request.url.path.startswith(OPEN_PATHS) or (session is not None and session.trusted):
            return None
        if self.guard.open_to_all and request.method == "GET":
            return self.guard.visitor(RedirectResponse("/", 303))
        if self.guard.asks_password and request.method == "GET":
            return RedirectResponse("/login", 303)
        return _plain(403, "No session: open the link that galvan printed.")


def _plain(status: int, sentence: str) -> Response:
    return Response(sentence + "\n", status, media_type="text/plain")


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; 403 without the session's CSRF token, 413 beyond LONGEST_BODY_BYTES, 415 for anything but a form."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only forms are understood here.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY_BYTES:
            raise HTTPException(413, f"More than {LONGEST_BODY_BYTES:,} bytes were sent.")
    try:
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise HTTPException(400, "Too many fields.") from None
    session: Session | None = request.state.session
    if session is None or not hmac.compare_digest(fields.get("csrf", "").encode("utf-8", "replace"), session.csrf.encode()):
        raise HTTPException(403, "This form is out of date; go back, load the page again and send it once more.")
    return fields
