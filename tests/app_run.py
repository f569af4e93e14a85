"""A small run's files as blind review reads them, and a client that knows how a browser behaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from galvan.app.guard import Guard
from galvan.app.server import create_app
from galvan.app.store import Store
from galvan.rundir import write_rows, write_text

PORT = 8765
SETTINGS = {"name": "distribution", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 60}


def words(kind: str, n: int) -> str:
    """Forty words that tell the arms apart for the test alone."""
    return " ".join(f"{kind}{n}w{i}" for i in range(40))


def make_run(
    folder: Path, n: int = 24, text: Callable[[str, int], str] = words, opening: Callable[[int], str] = "Opening {:02}".format
) -> Path:
    """`n` held-out documents, each continued by base and tuned; arms' words begin with `bbb`, `ttt`, the author's with `aaa`."""
    documents, samples = [], []
    for i in range(n):
        prompt = opening(i)
        documents.append({"id": f"d{i}", "text": f"{prompt} {text('aaa', i)}", "source": "book", "position": i})
        for arm, kind in (("base", "bbb"), ("tuned", "ttt")):
            samples.append(
                {
                    "prompt_id": f"held-out:d{i}",
                    "prompt": prompt,
                    "arm": arm,
                    "sample": 0,
                    "text": text(kind, i),
                    "settings": SETTINGS,
                }
            )
    write_rows(folder / "samples.jsonl", samples)
    write_rows(folder / "data" / "test.jsonl", documents)
    write_text(folder / "recipe.yaml", "name: x\n")
    return folder


class Browser:
    """A TestClient with the cookie, Origin and CSRF token that a browser at our own page would send."""

    def __init__(self, folder: Path, seed: int = 7, playground: Any = None, **guard: Any) -> None:
        self.guard = Guard(guard.pop("host", "127.0.0.1"), PORT, **guard)
        self.store = Store(folder, seed)
        self.app = create_app(folder, self.guard, self.store, playground)
        self.origin = f"http://127.0.0.1:{PORT}"
        self.client = TestClient(self.app, base_url=self.origin, raise_server_exceptions=True)

    def enter(self, rater: str | None = "Ada") -> Browser:
        assert self.client.get(self.guard.url).status_code == 200
        if rater:
            assert self.post("/review/rater", rater=rater).status_code == 200
        return self

    def csrf(self, page: str = "/review/rater") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.client.get(page).text)
        assert found
        return found[1]

    def post(self, path: str, **fields: str) -> Any:
        return self.client.post(path, data={"csrf": self.csrf(), **fields}, headers={"origin": self.origin})

    def number(self) -> str:
        found = re.search(r'name="number" value="(\d+)"', self.client.get("/review").text)
        assert found
        return found[1]
