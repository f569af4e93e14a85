"""Data sets of the Hugging Face Hub, as files: `hub:org/name`, `hub:org/name@revision`, `hub:org/name@revision:split`, `hub:org/name/folder`.

Only data files are fetched (parquet, jsonl, json, csv, tsv, txt), never a loading script. Which files are which split is said by
`configs:` at the head of the README, as the Hub reads it, where it names data files; `hub:org/name/CONFIG` is one of several. Else a
file belongs to a split if its path names the split (`data/train-00000-of-00002.parquet`, `train.jsonl`); where no path names one, every
file is `train`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from galvan.data.rows import one_line
from galvan.errors import DataError, ResourceError

PREFIX = "hub:"
README = "README.md"
_SOURCE = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?(?:@(?P<revision>[\w./-]+))?(?::(?P<split>\w+))?")
_DATA = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_NOT_DATA = re.compile(r"(?:^|/)(?:\.|readme|license|dataset_infos?\.json|requirements\.txt)", re.IGNORECASE)
_SPLITS = ("train", "validation", "valid", "val", "dev", "test")


@dataclass(frozen=True, slots=True)
class HubSource:
    """What a `hub:` source names; split "train" and the newest revision where it does not say."""

    repo: str
    folder: str | None
    revision: str | None
    split: str


def parse(source: str) -> HubSource:
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise DataError(
            "data/hub-source",
            f"{one_line(source, 120)}: write a Hub data set as hub:org/name, hub:org/name@revision or hub:org/name@revision:split.",
        )
    return HubSource(match["repo"], match["folder"], match["revision"], match["split"] or "train")


def fetch(source: str, offline: bool = False) -> list[Path]:
    """The data files of `source`, in order of path, in the Hub's cache.

    Raises DataError where there is no such data set, revision, folder or split, ResourceError where the network gave out.
    """
    asked = parse(source)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        return _fetch(asked, offline)
    except Exception as error:
        raise _explained(source, error, offline) from None


def _fetch(asked: HubSource, offline: bool) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT")
    if offline:
        root = Path(
            snapshot_download(asked.repo, repo_type="dataset", revision=asked.revision, local_files_only=True, endpoint=endpoint)
        )
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        return [root / name for name in choose(asked, names, configs(root / README) if README in names else [])]
    info = HfApi(endpoint=endpoint).repo_info(asked.repo, repo_type="dataset", revision=asked.revision)
    names = [sibling.rfilename for sibling in info.siblings or []]

    def fetched(name: str) -> Path:
        return Path(hf_hub_download(asked.repo, name, repo_type="dataset", revision=info.sha, endpoint=endpoint))

    return [fetched(name) for name in choose(asked, names, configs(fetched(README)) if README in names else [])]


@dataclass(frozen=True, slots=True)
class Config:
    """One of the data sets of a repository: the patterns of each split's files."""

    name: str
    default: bool
    patterns: Mapping[str, Sequence[str]]


def configs(readme: Path) -> list[Config]:
    """Those at the head of a README that name their data files; none where it has no head, or one that is not well-formed."""
    head = re.match(
        r"---\s*\n(.*?)\n---\s*(?:\n|$)", readme.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff"), re.DOTALL
    )
    try:
        listed = (yaml.safe_load(head[1]) or {}).get("configs") if head else None
    except (yaml.YAMLError, AttributeError, RecursionError):
        listed = None
    found = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and (patterns := _patterns(entry)):
            found.append(Config(str(entry.get("config_name", "default")), entry.get("default") is True, patterns))
    return found


def _patterns(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """By split: `data_files` is a pattern, a list of them, a mapping from split to them, or a list of {split, path}."""
    files, patterns = entry.get("data_files"), dict[str, list[str]]()
    if isinstance(files, dict):
        files = [{"split": split, "path": path} for split, path in files.items()]
    for item in files if isinstance(files, list) else [files]:
        split, paths = (item.get("split", "train"), item.get("path")) if isinstance(item, dict) else ("train", item)
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                whole = PurePosixPath(str(entry.get("data_dir") or ""), path).as_posix()
                patterns.setdefault(str(split), []).append(whole)
    return patterns


def _matches(pattern: str, name: str) -> bool:
    """As in a shell: `*` and `?` stay within a folder, `**` does not."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern)
    known = (parts.get(piece, piece if piece.startswith("[") and piece.endswith("]") else re.escape(piece)) for piece in pieces)
    return re.fullmatch("".join(known), name) is not None


def _configured(asked: HubSource, names: Sequence[str], known: Sequence[Config]) -> list[str] | None:
    """The files of the asked split as the README says; None where it says nothing about what was asked for."""
    named = [config for config in known if config.name == asked.folder]
    if not known or (asked.folder and not named):
        return None
    chosen = named or [config for config in known if config.default or config.name == "default"] or list(known)
    if len(chosen) > 1:
        some = ", ".join(one_line(config.name, 40) for config in chosen[:8])
        raise DataError(
            "data/hub-config", f"{asked.repo}: holds {len(chosen)} data sets ({some}); name one: hub:{asked.repo}/NAME."
        )
    patterns = chosen[0].patterns.get(asked.split, ())
    found = sorted(name for name in names if _is_data(name) and any(_matches(pattern, name) for pattern in patterns))
    if not found:
        held = ", ".join(one_line(split, 40) for split in chosen[0].patterns)
        raise DataError(
            "data/hub-split", f"{asked.repo}: no data file of the split `{asked.split}`; its README names files for {held}."
        )
    return found


def choose(asked: HubSource, names: Sequence[str], known: Sequence[Config] = ()) -> list[str]:
    """The files of the asked split, sorted; DataError where it holds none or where folders hold different data sets."""
    configured = _configured(asked, names, known)
    if configured is not None:
        return configured
    data = sorted(name for name in names if _is_data(name) and not _NOT_DATA.search(name))
    if asked.folder:
        data = [name for name in data if name.startswith(asked.folder.rstrip("/") + "/")]
    named = {name: _split_of(name) for name in data}
    chosen = [name for name in data if named[name] == asked.split] or (
        [] if any(named.values()) or asked.split != "train" else data
    )
    if not chosen:
        splits = sorted({split for split in named.values() if split}) or (["train"] if data else [])
        held = (
            f"it has the splits {', '.join(splits)}"
            if splits
            else f"it holds {', '.join(one_line(n, 60) for n in list(names)[:5]) or 'nothing'}"
        )
        raise DataError("data/hub-split", f"{asked.repo}: no data file of the split `{asked.split}`; {held}.")
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in chosen})
    if len(folders) > 1:
        some = ", ".join(one_line(folder, 60) for folder in folders[:8])
        raise DataError(
            "data/hub-folders",
            f"{asked.repo}: its `{asked.split}` files lie in {len(folders)} folders ({some}); name one: hub:{asked.repo}/FOLDER.",
        )
    return chosen


def _is_data(name: str) -> bool:
    bare = re.sub(r"\.(?:gz|zst)$", "", name.lower())
    return bare.endswith(_DATA)


def _split_of(name: str) -> str | None:
    """The split that the file's name, or a folder on its way, names as a word of its own."""
    for part in reversed(PurePosixPath(name).parts):
        for word in re.split(r"[^a-z0-9]+", part.lower().split(".")[0]):
            if word in _SPLITS:
                return {"valid": "validation", "val": "validation", "dev": "validation"}.get(word, word)
    return None


def _explained(source: str, error: Exception, offline: bool) -> Exception:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = one_line(source, 120)
    if isinstance(error, (DataError, ResourceError)):
        return error
    if isinstance(error, GatedRepoError):
        return DataError("data/hub-gated", f"{name} is gated: accept its terms on the Hub and log in with `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        return DataError("data/hub-revision", f"{name}: the Hub has no such revision of this data set.")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return DataError("data/missing", f"{name}: there is no such data set on the Hub that you may read.")
    if isinstance(error, LocalEntryNotFoundError) and offline:
        return DataError("data/not-cached", f"{name} is not in the Hub's cache, and --offline was asked for.")
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, (HfHubHTTPError, OSError)) or module in {"httpx", "httpx2", "httpcore", "requests", "urllib3"}:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return ResourceError("network/hub", f"The Hub could not be reached for {name}: {one_line(reason, 200)}")
    return error
