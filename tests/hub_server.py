"""A small server in the shape of the Hugging Face Hub, on loopback: enough for `snapshot_download`, with the Hub's own ways to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id, each a folder; `revisions` are the names that exist; `requests` is every path that was asked for.

    `gated` ids answer 403, `broken` makes every answer a 500, `cut` makes every file end half-way.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.revisions = {"main", "v1.0", COMMIT}
        self.gated: set[str] = set()
        self.broken = self.cut = False
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        owner, name, verb, *rest = [*(parts[2:] if api else parts), "", "", ""]
        rest = [part for part in rest if part]
        repository = f"{owner}/{name}"
        if self.broken:
            return 500, {}, b'{"error": "Internal Error"}'
        if repository in self.gated:
            return self._error(403, "GatedRepo", f"Access to model {repository} is restricted.")
        if repository not in self.repositories:
            return self._error(401, "RepoNotFound", "Repository not found")
        revision = rest[0] if rest else "main"
        if revision not in self.revisions:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = self.repositories[repository]
        if api:
            return self._json(self._tree(folder) if verb == "tree" else self._info(repository, folder))
        file = folder / "/".join(rest[1:])
        if verb != "resolve" or not file.is_file():
            return self._error(404, "EntryNotFound", "Entry not found")
        content = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content

    def _error(self, status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
        return status, {"X-Error-Code": code, "X-Error-Message": message}, b""

    def _json(self, value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def _files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def _info(self, repository: str, folder: Path) -> dict[str, Any]:
        names = [{"rfilename": path.relative_to(folder).as_posix()} for path in self._files(folder)]
        return {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "private": False, "gated": False, "tags": [], "downloads": 0, "siblings": names}  # fmt: skip

    def _tree(self, folder: Path) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
            for path in self._files(folder)
        ]  # fmt: skip


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of the loopback interface; `hub.url` says which."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def _send(self, body: bool) -> None:
            hub.requests.append(self.path)
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                cut = hub.cut and "/resolve/" in self.path
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = self.close_connection or cut

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
