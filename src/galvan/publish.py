"""`galvan publish`: adapter and model card to a folder or the Hub. Only named files travel, and only of a run that worked, unless told.

A folder appears whole or not at all, and never takes the place of anything but an earlier publication. On the Hub it is one commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from galvan import __version__
from galvan.errors import ComparisonRefused, DataError, GateNotMet, ModelError, RecipeError, ResourceError
from galvan.report import Judged, judge
from galvan.report.card import Asked, card
from galvan.report.names import base_id
from galvan.report.verdict import vetoes
from galvan.rundir import SCHEMA_VERSION, alone, appear, atomic, fingerprint, read_json, sha256_file, to_json, write_bytes
from galvan.text import shown

HUB = "hub:"
MANIFEST = "galvan.json"  # says what was published, and that this folder is a publication of ours
CARD = "README.md"
_WEIGHTS = re.compile(r"(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors")
_SETTINGS = ("adapter_config.json", "config.json", "generation_config.json", "model.safetensors.index.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
Content = bytes | Path  # what a file will hold, or where it lies: weights may be larger than memory
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """What went where: sizes in bytes by name; `url` is where it can be seen, None for a dry run; `card` is the README. `space_files` are those
    of the folder `space`. What was not asked for is None or empty."""

    verdict: str
    dry_run: bool
    card: str
    to: str | None
    files: dict[str, int]
    url: str | None = None
    space: str | None = None
    space_files: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        return to_json({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)})

    def to_text(self) -> str:
        lines = []
        for where, sizes in ((self.to, self.files), (self.space, self.space_files)):
            if where is not None:
                shown_sizes = (
                    sizes if where == self.to else {name: size for name, size in sizes.items() if not name.startswith("galvan/")}
                )
                lines += [f"{size:>14,} bytes  {name}" for name, size in shown_sizes.items()]
                lines += [
                    f"{sum(sizes.values()):>14,} bytes in {len(sizes)} files{' with galvan itself' if len(shown_sizes) < len(sizes) else ''}"
                ]
                done = self.url if where == self.to and self.url else where
                lines += [f"Nothing was written; it would be {done}" if self.dry_run else f"Published: {done}", ""]
        return "\n".join(shown(line) for line in [*lines, *([self.card] if self.dry_run else [])]).rstrip("\n")


def publish(
    run: Path, to: str | None = None, *, asked: Asked | None = None, space: Path | None = None, anyway: bool = False, dry_run: bool = False,
    public: bool = False, offline: bool = False,
) -> Published:  # fmt: skip
    """Judge `run` again from its files, and publish its adapter with the card to the folder or `hub:org/name` that `to` names; `space` is a
    folder for a Hugging Face Space with the playground.

    ComparisonRefused or GateNotMet where the run did not work, unless `anyway`; RecipeError for an impossible target or a missing login,
    ModelError where the weights are not those that were judged, ResourceError where disk or network give out.
    """
    asked = asked or Asked()
    if to is None and space is None:
        raise RecipeError("publish/target", "Say where it shall go: --to DIR, --to hub:org/name or --space DIR.")
    repository = to.removeprefix(HUB) if to is not None and to.startswith(HUB) else None
    if repository is not None:
        _require_repository(repository)
        asked = dataclasses.replace(asked, adapter=repository)
    target = Path(to).expanduser() if to is not None and repository is None else None
    for folder in (target, space):
        if folder is not None:
            require_free(folder)
    with alone(run):
        judged = judge(run)
    require_worked(judged, anyway)
    contents = contents_of(judged, asked)
    around: dict[str, Content] = {}
    if space is not None:
        from galvan.space import space_files

        around = space_files(judged, asked, {name: data for name, data in contents.items() if name != MANIFEST})
        _require_no_place({name: data for name, data in around.items() if not name.startswith("galvan/")}, judged.folder)
        around[MANIFEST] = _manifest(judged, around)
    found = Published(
        str(judged.verdict["verdict"]), dry_run, card_of(contents), to, _sizes(contents) if to else {}, None, None if space is None else str(space), _sizes(around),
    )  # fmt: skip
    if dry_run:
        return found
    if space is not None:
        to_folder(around, space)
    if repository is not None:
        return dataclasses.replace(found, url=to_hub(contents, repository, public, offline))
    return dataclasses.replace(found, url=to_folder(contents, target)) if target is not None else found


def card_of(contents: Mapping[str, Content]) -> str:
    text = contents[CARD]
    assert isinstance(text, bytes)
    return text.decode()


def _sizes(contents: Mapping[str, Content]) -> dict[str, int]:
    return {name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in contents.items()}


def require_worked(judged: Judged, anyway: bool = False) -> None:
    """Is there something to be proud of? With `anyway` the card says what is against it instead."""
    verdict = judged.verdict
    word, against = str(verdict["verdict"]), vetoes(verdict)
    if anyway or verdict["worked"] is True:
        return
    hint = "publish it with --anyway, and the card will say so first"
    if word == "refused":
        raise ComparisonRefused("publish/refused", f"The comparison of this run is refused: {shown(str(verdict['reason']))} Mend it, or {hint}.")  # fmt: skip
    if against:
        raise GateNotMet("publish/vetoed", f"The run is vetoed for {' and '.join(against)}; train it otherwise, or {hint}.")
    raise GateNotMet(
        "publish/not-shown", f"The fine-tune was not shown to work, its verdict is {word}; train it otherwise, or {hint}."
    )


def contents_of(judged: Judged, asked: Asked) -> dict[str, Content]:
    """Every file that travels, by name: weights, configuration, card and manifest; nothing else of the run."""
    e, folder = judged.evidence, weights_folder(judged)
    weights = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and _WEIGHTS.fullmatch(path.name)}
    if not weights:
        raise ModelError(
            "publish/no-weights", f"{shown(folder.name)} holds no safetensors weights; a run that trains leaves them there."
        )
    digests = {name: sha256_file(path) for name, path in weights.items()}
    known = e.provenance.get("adapter_sha256")
    if known not in (next(iter(digests.values())) if len(digests) == 1 else None, fingerprint(digests)):
        raise ModelError("publish/other-weights", "The adapter's weights are not those that were judged; run `galvan run` or `galvan evaluate` again.")  # fmt: skip
    contents: dict[str, Content] = dict(weights)
    for name in (*_SETTINGS, *(() if (folder / "adapter_config.json").is_file() else _TOKENIZER)):
        if (folder / name).is_file():
            contents[name] = _without_places(folder / name, base_id(e, asked.base))
    contents[CARD] = card(judged.folder, e, judged.verdict, asked).encode()
    _require_no_place(contents, judged.folder)
    contents[MANIFEST] = _manifest(judged, contents)
    return dict(sorted(contents.items()))


def weights_folder(judged: Judged) -> Path:
    """The adapter (or model) of the run: its own, or the folder that it evaluated."""
    own = [judged.folder / name for name in ("adapter", "model") if (judged.folder / name).is_dir()]
    elsewhere = Path(str(judged.evidence.provenance.get("adapter") or "\0")).expanduser()
    if own or (elsewhere.name and "\0" not in str(elsewhere) and elsewhere.is_dir()):
        return own[0] if own else elsewhere
    raise ModelError(
        "publish/no-adapter", f"{shown(str(judged.folder))}: the adapter is neither in the run nor where it was evaluated."
    )


def _without_places(path: Path, base: str | None) -> bytes:
    """A JSON file in which the base is called by a name that others know, or by its folder's name alone."""
    if not path.name.endswith(".json"):
        return path.read_bytes()
    value = read_json(path)
    if isinstance(value, dict):
        for key in ("base_model_name_or_path", "_name_or_path", "name_or_path"):
            if isinstance(value.get(key), str) and value[key]:
                value[key] = base if base and key == "base_model_name_or_path" else _last(value[key])
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _last(name: str) -> str:
    local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if local else name


def _require_no_place(contents: Mapping[str, Content], run: Path) -> None:
    """The last look before anything leaves: no text names this user's home, this run's folder or where the command was given."""
    places = {f"{place}/" for place in (Path.home(), run.resolve(), Path.cwd()) if len(place.parts) > 1}
    for name, data in contents.items():
        if isinstance(data, bytes) and (found := next((place for place in places if place.encode() in data), None)):
            raise DataError("publish/place", f"{name} would name the folder {shown(found)} of this machine; nothing was published.")


def _manifest(judged: Judged, contents: Mapping[str, Content]) -> bytes:
    record = {
        "schema_version": SCHEMA_VERSION, "galvan": __version__, "name": judged.evidence.recipe.name, "verdict": judged.verdict["verdict"],
        "worked": judged.verdict["worked"], "vetoes": vetoes(judged.verdict),
        "files": {name: sha256_file(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())},
    }  # fmt: skip
    return (to_json(record) + "\n").encode()


# ---- a folder ----


def require_free(target: Path) -> None:
    """RecipeError where `target` holds anything but an earlier publication."""
    if target.exists() and not target.is_dir():
        raise RecipeError("publish/occupied", f"{shown(str(target))} is a file; choose another folder.")
    found = [path for path in target.rglob("*") if not path.is_dir() and "__pycache__" not in path.parts]
    if not found:
        return
    manifest = read_json(target / MANIFEST) if (target / MANIFEST).is_file() else None
    ours = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(ours, dict):
        raise RecipeError(
            "publish/occupied", f"{shown(str(target))} is not empty, and not a publication of galvan; choose another folder."
        )
    strange = sorted({path.relative_to(target).as_posix() for path in found} - {MANIFEST, *ours})
    if strange:
        raise RecipeError("publish/occupied", f"{shown(str(target))} holds {shown(strange[0], 80)}, which galvan did not publish; choose another folder.")  # fmt: skip


def to_folder(contents: Mapping[str, Content], target: Path) -> str:
    """Write all files beside `target` and give the folder its name last; an earlier publication stays until then."""

    def fill(folder: Path) -> None:
        for name, data in contents.items():
            if isinstance(data, bytes):
                write_bytes(folder / name, data)
            else:
                with data.open("rb") as source, atomic(folder / name, data.stat().st_size) as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)

    return str(appear(target, fill))


# ---- the Hub ----


def _require_repository(name: str) -> None:
    if not _REPOSITORY.fullmatch(name):
        raise RecipeError("publish/target", f"{HUB}{shown(name, 120)}: write a repository of the Hub as hub:org/name.")


def to_hub(contents: Mapping[str, Content], repository: str, public: bool = False, offline: bool = False) -> str:
    """One commit to a model repository, which is made private unless `public`; returns its address. The token is that of `hf auth login`
    or HF_TOKEN, and is never printed."""
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise RecipeError("publish/offline", "The Hub cannot be reached offline; publish to a folder, or leave --offline and HF_HUB_OFFLINE away.")  # fmt: skip
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise RecipeError("publish/no-token", "Publishing needs a login with the right to write: `hf auth login`, or HF_TOKEN in the environment.")  # fmt: skip
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in contents.items()]
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Publish with galvan")
    except Exception as error:
        raise _explained(repository, error) from None
    return str(url)


def _explained(repository: str, error: BaseException) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return RecipeError(
            "publish/token", f"hub:{repository}: the Hub does not know the token (401); log in again with `hf auth login`."
        )
    if status == 403:
        return RecipeError("publish/forbidden", f"hub:{repository}: the token may not write there (403); use one with write access to {repository.partition('/')[0]}.")  # fmt: skip
    reason = shown((str(error).strip().splitlines() or [type(error).__name__])[0], 200)
    if isinstance(error, HFValidationError) or status in (400, 409):
        return RecipeError("publish/target", f"hub:{repository}: the Hub does not take it: {reason}")
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, (HfHubHTTPError, OSError, RuntimeError)) or module in {"httpx", "httpx2", "httpcore", "httpcore2"}:
        return ResourceError("network/hub", f"The Hub could not be reached for {repository}: {reason}; nothing is published before its last step.")  # fmt: skip
    return error if isinstance(error, Exception) else RuntimeError(str(error))
