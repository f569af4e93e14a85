"""Data sets of the Hub, from a server on this machine: which files are chosen, and what is said when there are none."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galvan.data import hub
from galvan.data.hub import HubSource, choose, fetch, parse
from galvan.data.read import read
from galvan.errors import DataError, ResourceError
from galvan.payload import Pair

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parquet(*rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


FILES = {
    "README.md": b"hello",
    "load.py": b"raise SystemExit('a loading script was run')",
    "data/train-00000-of-00002.parquet": parquet({"prompt": "a ", "completion": "1"}),
    "data/train-00001-of-00002.parquet": parquet({"prompt": "b ", "completion": "2"}),
    "data/test.jsonl": b'{"prompt": "c ", "completion": "3"}\n',
}


class Server(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        path = self.path.split("?")[0]
        Server.asked.append(path)
        if path.startswith("/api/datasets/org/poems"):
            revision = path.rsplit("/revision/", 1)[1] if "/revision/" in path else "main"
            if revision not in ("main", COMMIT):
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            found = {"id": "org/poems", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)
        prefix = f"/datasets/org/poems/resolve/{COMMIT}/"
        content = FILES.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if content is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        return self.answer(200, content, {"ETag": f'"{len(content)}-{hash(content) & 0xFFFF}"', "X-Repo-Commit": COMMIT}, body)

    def answer(self, status, content, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    from huggingface_hub import constants

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    Server.asked.clear()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def test_a_split_is_read_from_its_files_alone_and_again_without_the_network(server, monkeypatch):
    assert [row.payload for row in read("hub:org/poems")] == [Pair("a ", "1"), Pair("b ", "2")]
    assert [row.payload for row in read(f"hub:org/poems@{COMMIT}:test")] == [Pair("c ", "3")]
    assert not any("load.py" in path or "README" in path for path in Server.asked)
    Server.asked.clear()
    assert [row.payload for row in read(f"hub:org/poems@{COMMIT}", offline=True)] == [Pair("a ", "1"), Pair("b ", "2")]
    assert Server.asked == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("hub:org/nothing", "data/missing"),
        ("hub:org/poems@nowhere", "data/hub-revision"),
        ("hub:org/poems:validation", "data/hub-split"),
        ("hub:poems", "data/hub-source"),
    ],
)
def test_what_is_not_there_is_said(server, source, code):
    with pytest.raises(DataError) as caught:
        fetch(source)
    assert caught.value.code == code


def test_without_network_it_is_a_matter_of_resources_and_offline_of_the_cache(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="The Hub could not be reached for hub:org/verses"):
        fetch("hub:org/verses")
    with pytest.raises(DataError, match="not in the Hub's cache, and --offline was asked for"):
        fetch("hub:org/verses", offline=True)


def test_sources_are_taken_apart():
    assert parse("hub:a/b") == HubSource("a/b", None, None, "train")
    assert parse("hub:a/b/c/d@main:test") == HubSource("a/b", "c/d", "main", "test")
    assert hub.PREFIX == "hub:"


def test_files_belong_to_the_split_that_their_path_names():
    any_split = HubSource("a/b", None, None, "train")
    assert choose(any_split, ["poems.csv", "more.jsonl.gz", "README.md", "x.bin", "dataset_info.json"]) == [
        "more.jsonl.gz",
        "poems.csv",
    ]
    assert choose(any_split, ["trainers_test.csv", "my-train.csv"]) == ["my-train.csv"]
    assert choose(HubSource("a/b", None, None, "validation"), ["data/dev.csv", "data/train.csv"]) == ["data/dev.csv"]
    assert choose(HubSource("a/b", "en", None, "train"), ["en/train.csv", "de/train.csv"]) == ["en/train.csv"]
    with pytest.raises(DataError, match=r"lie in 2 folders \(de, en\); name one: hub:a/b/FOLDER"):
        choose(any_split, ["en/train.csv", "de/train.csv"])
    with pytest.raises(DataError, match="no data file of the split `train`; it has the splits test"):
        choose(any_split, ["test.csv"])
