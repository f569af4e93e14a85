"""The pages: server-rendered, usable without JavaScript, and behind `guard`."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import jinja2
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.staticfiles import StaticFiles

from galvan.app.guard import Gate, Guard, Session, form
from galvan.app.ratings import Ratings, ratings
from galvan.app.store import Store, rater_name
from galvan.errors import EXIT_DONE, GalvanError, ResourceError
from galvan.rundir import to_json
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.app.playground import Playground

T = TypeVar("T")
HERE = Path(__file__).parent
Fields = Annotated[dict[str, str], Depends(form)]

HEADLINES = {
    "preferred": "Readers prefer the tuned model's texts.",
    "not preferred": "Readers prefer the base model's texts.",
    "no clear preference": "Readers prefer neither by more than 10 points.",
    "go on": "Not decided yet: more answers are needed.",
}


def create_app(folder: Path, guard: Guard, store: Store | None, playground: Playground | None = None) -> FastAPI:
    """The pages of one run; without a `store` for answers there is no blind review."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        if store is not None:
            store.close()

    # FastAPI can send traces, and with them the one-time link, to wherever the environment's OTEL_ variables point.
    quiet: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=life, telemetry=quiet)
    app.add_middleware(Gate, guard=guard)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pages.filters["shown"] = shown

    def page(request: Request, name: str, code: int = 200, **values: Any) -> HTMLResponse:
        session: Session | None = getattr(request.state, "session", None)
        known = {
            "trusted": session is not None and session.trusted, "csrf": session.csrf if session else "", "playground": playground, "reviewed": store is not None,
            "here": request.url.path.split("/")[1], "rater": session.rater if session else None, "note": None,
        }  # fmt: skip
        return HTMLResponse(pages.get_template(f"{name}.html").render(known | values), code)

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, AnyHTTPException | GalvanError)
        if isinstance(error, AnyHTTPException):
            return page(request, "problem", error.status_code, sentence=str(error.detail))
        return page(request, "problem", 503 if isinstance(error, ResourceError) else 400, sentence=str(error))

    app.add_exception_handler(AnyHTTPException, problem)
    app.add_exception_handler(GalvanError, problem)

    @app.get("/")
    def home(token: str | None = None) -> Response:
        return RedirectResponse("/playground" if store is None else "/review", 303) if token is None else guard.redeem(token)

    if guard.asks_password:

        @app.get("/login")
        def password(request: Request) -> Response:
            if request.state.session is None:
                return guard.visitor(RedirectResponse("/login", 303))
            return page(request, "login")

        @app.post("/login")
        def sign_in(request: Request, fields: Fields) -> Response:
            return guard.sign_in(request, fields.get("password", ""))

    if store is not None:
        _review(app, folder, store, page)
    if playground is not None:
        _playground(app, playground, page)
    return app


Page = Callable[..., HTMLResponse]


def seldom(work: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> Callable[[], T]:
    """`work`, done again only after ten times as long as it took: what every page asks for would otherwise be most of what many raters wait for."""
    lock, held = threading.Lock(), list[tuple[float, T]]()

    def lately() -> T:
        with lock:
            begun = clock()
            if not held or begun >= held[0][0]:
                found = work()
                held[:] = [(clock() + 10 * (clock() - begun), found)]
            return held[0][1]

    return lately


def _review(app: FastAPI, folder: Path, store: Store, page: Page) -> None:
    lately = seldom(lambda: ratings(folder))

    def judging(request: Request) -> str:
        """The rater's name; 409 where none was given yet, or the result was seen."""
        rater: str | None = request.state.session.rater
        if rater is None:
            raise HTTPException(409, "Give a name first, on the page of the blind review.")
        if store.revealed(rater):
            raise HTTPException(409, "You have seen the result, so one more answer of yours would no longer be blind.")
        return rater

    @app.get("/review")
    def review(request: Request) -> Response:
        rater = request.state.session.rater
        if rater is None:
            return RedirectResponse("/review/rater", 303)
        if store.revealed(rater):
            return RedirectResponse("/review/result", 303)
        place = store.place(rater)
        found = lately()
        enough = found is not None and found.so_far.decision != "go on"
        return page(request, "done" if place.left is None else "pair", place=place, enough=enough)

    @app.get("/review/rater")
    def ask_rater(request: Request) -> Response:
        return page(request, "start", total=len(store.pairs))

    @app.post("/review/rater")
    def set_rater(request: Request, fields: Fields) -> Response:
        request.state.session.rater = rater_name(fields.get("rater", ""))
        return RedirectResponse("/review", 303)

    @app.post("/review")
    def vote(request: Request, fields: Fields) -> Response:
        number = fields.get("number", "")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise HTTPException(400, "The form names no pair.")
        if not store.vote(judging(request), int(number), fields.get("choice", ""), fields.get("reason", "")):
            raise HTTPException(409, "This pair was answered already, perhaps by a second press; nothing was changed.")
        return RedirectResponse("/review", 303)

    @app.post("/review/undo")
    def undo(request: Request, fields: Fields) -> Response:
        if not store.undo(judging(request)):
            raise HTTPException(409, "There is no answer to undo.")
        return RedirectResponse("/review", 303)

    @app.post("/review/result")
    def reveal(request: Request, fields: Fields) -> Response:
        if request.state.session.rater is None:
            raise HTTPException(409, "Give a name first, on the page of the blind review.")
        store.reveal(request.state.session.rater)
        return RedirectResponse("/review/result", 303)

    @app.get("/review/result")
    def result(request: Request) -> Response:
        rater = request.state.session.rater
        if rater is None or not store.revealed(rater):
            raise HTTPException(409, "The result is shown to those who have stopped judging.")
        found = ratings(folder)
        return page(request, "result", found=found, rates=_rates(found), headline=HEADLINES[found.so_far.decision] if found else "")


def _rates(found: Ratings | None) -> Sequence[tuple[str, Any]]:
    if found is None:
        return []
    asked = [("Tuned preferred to base", found.tuned), ("The author preferred to tuned (control)", found.author)]
    return [(question, rate) for question, rate in asked if rate is not None]


def _playground(app: FastAPI, playground: Playground, page: Page) -> None:
    from galvan.app.playground import Asked

    @app.get("/playground")
    def show(request: Request) -> Response:
        return page(request, "playground", asked=Asked(), adapters=playground.names, base="", tuned="", status="")

    @app.post("/playground")
    def write(request: Request, fields: Fields) -> Response:
        asked = playground.asked(fields)
        said = {"base": "", "tuned": ""}
        for news in playground.write(asked):
            said |= news
        return page(request, "playground", asked=asked, adapters=playground.names, status=said.pop("problem", "Done"), **said)

    @app.post("/playground/stream")
    def stream(fields: Fields) -> Response:
        asked = playground.asked(fields)

        def lines() -> Iterator[str]:
            for news in playground.write(asked):
                yield to_json(news, None) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def serve(
    folder: Path, host: str = "127.0.0.1", port: int = 0, password: str | None = None, playground: Playground | None = None,
    say: Callable[[str], None] = print, review: bool = True, public: str | None = None, open_to_all: bool = False,
) -> int:  # fmt: skip
    """Serve the pages of a run until interrupted; `say` gets the address once the port is open. ResourceError where it cannot be.

    `public` and `open_to_all` are the guard's: the address of a proxy in front, and whether anyone may come in."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        guard_before = Guard(host, port, password, public, open_to_all)  # a missing password is said before a port is opened
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ResourceError(
                "app/port", f"{shown(host)} port {port} cannot be opened: {error.strerror or error}; choose another with --port."
            ) from None
        listener.listen(128)  # from here on a browser that is quick waits instead of failing
        guard = guard_before if port else Guard(host, listener.getsockname()[1], password, public, open_to_all)
        app = create_app(folder, guard, Store(folder) if review else None, playground)
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none", timeout_graceful_shutdown=2)  # fmt: skip
        say(guard.url)
        uvicorn.Server(config).run(sockets=[listener])
    return EXIT_DONE
