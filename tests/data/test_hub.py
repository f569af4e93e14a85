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
    assert not any("load.py" in path for path in Server.asked)
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


CONFIGURED = """---
license: mit
configs:
- config_name: poems
  default: true
  data_files:
  - split: train
    path: "a/**/part-?.jsonl"
  - split: test
    path: [b/*.jsonl, "c.jsonl"]
- config_name: prose
  data_dir: prose
  data_files: "*.csv"
---
# Poems
"""
NAMES = [
    "README.md",
    "a/x/y/part-1.jsonl",
    "a/part-2.jsonl",
    "a/part-10.jsonl",
    "b/q.jsonl",
    "b/d/r.jsonl",
    "c.jsonl",
    "prose/one.csv",
]


def configured(tmp_path, text, source):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return choose(parse(source), NAMES, hub.configs(tmp_path / "README.md"))


def test_the_readme_says_which_files_are_which_split(tmp_path):
    assert configured(tmp_path, CONFIGURED, "hub:a/b") == ["a/part-2.jsonl", "a/x/y/part-1.jsonl"]
    assert configured(tmp_path, CONFIGURED, "hub:a/b:test") == ["b/q.jsonl", "c.jsonl"]
    assert configured(tmp_path, CONFIGURED, "hub:a/b/prose") == ["prose/one.csv"]
    mapped = "---\nconfigs:\n- config_name: x\n  data_files:\n    train: c.jsonl\n    odd: b/q.jsonl\n---\n"
    assert configured(tmp_path, mapped, "hub:a/b") == ["c.jsonl"] and configured(tmp_path, mapped, "hub:a/b:odd") == ["b/q.jsonl"]


def test_a_split_or_a_choice_that_the_readme_leaves_open_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="no data file of the split `odd`; its README names files for train, test"):
        configured(tmp_path, CONFIGURED, "hub:a/b:odd")
    with pytest.raises(DataError, match=r"holds 2 data sets \(poems, prose\); name one: hub:a/b/NAME"):
        configured(tmp_path, CONFIGURED.replace("  default: true\n", ""), "hub:a/b")


@pytest.mark.parametrize(
    "head", [": [", "- 1", "configs: 3", "configs: [{data_files: 4}]", "configs: [{config_name: prose, data_files: []}]"]
)
def test_a_readme_that_names_no_data_files_leaves_it_to_the_paths(tmp_path, head):
    for text in ("", "# Poems", f"---\n{head}\n---\n"):
        assert configured(tmp_path, text, "hub:a/b/prose") == ["prose/one.csv"]


def test_the_readme_of_a_data_set_on_the_hub_is_followed(server, monkeypatch):
    head = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/test.jsonl\n---\n"
    monkeypatch.setitem(FILES, "README.md", head)
    assert [row.payload for row in read("hub:org/poems")] == [Pair("c ", "3")]
    assert [row.payload for row in read(f"hub:org/poems@{COMMIT}", offline=True)] == [Pair("c ", "3")]
