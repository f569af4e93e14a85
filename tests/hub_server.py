"""A small server in the shape of the Hugging Face Hub, on loopback: enough for `snapshot_download` and `create_commit`, with the Hub's own ways
to fail. What was uploaded can be downloaded again."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id, each a folder; `revisions` are the names that exist; `requests` is every path that was asked for.

    `gated` ids answer 403, `broken` makes every answer a 500, `cut` makes every file end half-way. `tokens` may write to the owners they name;
    new repositories lie in `store`, and `visibility` says who sees them.
    """

    def __init__(self, repositories: dict[str, Path], store: Path | None = None, tokens: dict[str, set[str]] | None = None) -> None:
        self.store, self.tokens = store, tokens or {}
        self.visibility: dict[str, str | None] = {}
        self.large: dict[str, bytes] = {}
        self.commits: list[str] = []
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

    def write(self, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to a POST or PUT: a repository made, files announced, large ones taken, a commit of all of them or none."""
        path = unquote(urlsplit(path).path)
        if self.broken:
            return 500, {}, b'{"error": "Internal Error"}'
        if path.startswith("/large/"):  # a signed address: no token is asked for
            return self._take(path.removeprefix("/large/"), body)
        if path == "/api/validate-yaml":
            return self._json(_judged_head(json.loads(body)["content"]))
        if token not in self.tokens:
            return self._error(401, "", "Invalid username or password.")
        asked = json.loads(body.split(b"\n")[0] or b"{}") if body else {}
        if path == "/api/repos/create":
            return self._create(self.tokens[token], asked)
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+)/([^/]+?)(?:\.git)?/(preupload/main|commit/main|info/lfs/objects/batch|verify)", path
        )
        if found is None:
            return self._error(404, "EntryNotFound", f"no such address: {path}")
        if found[1] not in self.tokens[token]:
            return self._error(403, "", "You do not have the required permissions.")
        repository, verb = f"{found[1]}/{found[2]}", found[3]
        if repository not in self.repositories:
            return self._error(404, "RepoNotFound", "Repository not found")
        if verb == "verify":
            return self._json({"message": "OK"}) if asked["oid"] in self.large else self._error(404, "", "not uploaded")
        if verb == "preupload/main":
            modes = {True: "lfs", False: "regular"}
            return self._json({"files": [{"path": f["path"], "uploadMode": modes[f["path"].endswith(".safetensors")], "shouldIgnore": False} for f in asked["files"]]})  # fmt: skip
        if verb == "commit/main":
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        objects = [
            {
                **one,
                "actions": {
                    "upload": {"href": f"{self.url}/large/{one['oid']}"},
                    "verify": {"href": f"{self.url}/{repository}/verify"},
                },
            }
            for one in asked["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _create(self, owners: set[str], asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        repository = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in owners:
            return self._error(403, "", "You don't have the rights to create a model under this namespace.")
        if repository in self.repositories:
            return 409, {}, json.dumps({"error": "You already created this model repo", "url": f"{self.url}/{repository}"}).encode()
        assert self.store is not None
        self.repositories[repository], self.visibility[repository] = self.store / repository, asked.get("visibility")
        self.repositories[repository].mkdir(parents=True)
        return self._json({"url": f"{self.url}/{repository}", "id": repository})

    def _take(self, digest: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if hashlib.sha256(body).hexdigest() != digest:
            return self._error(400, "", "the content does not match its sha256")
        self.large[digest] = body
        return 200, {}, b""

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        files = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in lines if one["key"] == "file"}
        files |= {one["value"]["path"]: self.large[one["value"]["oid"]] for one in lines if one["key"] == "lfsFile"}
        for name, content in files.items():
            (self.repositories[repository] / name).write_bytes(content)
        self.commits.append(lines[0]["value"]["summary"])
        return self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{repository}/commit/{COMMIT}"})

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


def _judged_head(content: str) -> dict[str, Any]:
    """What the Hub's own check of a card's front matter says: YAML, and a base that is called by an id."""
    try:
        head = yaml.safe_load(content.split("---\n")[1])
    except (yaml.YAMLError, IndexError) as error:
        return {"errors": [{"message": f"not YAML: {error}"}], "warnings": []}
    base = head.get("base_model")
    wrong = (
        [] if base is None or re.fullmatch(r"[\w.-]+/[\w.-]+", base) else [{"message": f'"base_model" {base} is not a model id'}]
    )
    return {"errors": wrong, "warnings": []}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of the loopback interface; `hub.url` says which."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(True, hub.write(self.path, (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None, sent))

        def do_PUT(self) -> None:
            self.do_POST()

        def _send(self, body: bool, answer: tuple[int, dict[str, str], bytes] | None = None) -> None:
            hub.requests.append(self.path)
            status, headers, content = answer or hub.answer(self.path)
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
