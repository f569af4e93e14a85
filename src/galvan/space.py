"""A folder that runs the playground as a Hugging Face Space: galvan itself, the adapter, and a Docker image's recipe. No text of the run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path

from galvan import recipe as recipes
from galvan.errors import RecipeError
from galvan.payload import Chat, Pair, Payload, Tokens
from galvan.recipe import Model, Recipe
from galvan.report import Judged
from galvan.report.card import Asked
from galvan.report.evidence import Evidence
from galvan.report.names import BUNDLED, base_id
from galvan.rundir import Document, each_document, to_json

_APP = '''"""Starts the playground; settings come from the environment, as README.md says."""

from pathlib import Path

from galvan.app.space import main

main(Path(__file__).parent / "run")
'''
_IGNORED = "__pycache__\n*.pyc\n"


def space_files(judged: Judged, asked: Asked, weights: Mapping[str, bytes | Path]) -> dict[str, bytes | Path]:
    """Every file of the Space by its path; `weights` are those of the publication. RecipeError where others could not find the base."""
    e = judged.evidence
    base = base_id(e, asked.base)
    if base is None:
        raise RecipeError("publish/base", "The base was a folder on this machine, which a Space cannot read: name it on the Hub with --base ORG/NAME.")  # fmt: skip
    pinned = e.provenance.get("base_revision") if not asked.base else None
    model = Model(base=f"{base}@{pinned}" if pinned else base, quantization=e.recipe.model.quantization)
    texts = {
        "app.py": _APP, "Dockerfile": _dockerfile(), "requirements.txt": requirements(), "README.md": _readme(e, base), ".dockerignore": _IGNORED,
        "run/recipe.yaml": recipes.resolved(Recipe(name=e.recipe.name, model=model)),
    }  # fmt: skip
    shape = _shape(judged.folder / "data" / "train.jsonl")
    texts |= {"run/data/train.jsonl": to_json(shape, None) + "\n"} if shape else {}
    kind = "adapter" if e.recipe.training.method == "lora" or "adapter_config.json" in weights else "model"
    return {
        **{name: text.encode() for name, text in texts.items()}, **{f"run/{kind}/{name}": data for name, data in weights.items()}, **package(base),
    }  # fmt: skip


def package(base: str) -> dict[str, Path]:
    """This very galvan, with the bundled base only where it is needed."""
    root = Path(str(files("galvan")))
    assets = root / "assets"
    kept = assets / base.removeprefix(BUNDLED) if base.startswith(BUNDLED) else None
    return {
        f"galvan/{path.relative_to(root).as_posix()}": path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and (assets not in path.parents or (kept is not None and kept in path.parents))
    }


def requirements() -> str:
    """What galvan and its pages need, in the versions that are installed here; torch for a CPU."""
    wanted = [text for text in requires("galvan") or [] if "extra ==" not in text or re.search(r"extra == ['\"]app['\"]", text)]
    names = sorted({re.split(r"[^\w.-]", text)[0] for text in wanted}, key=str.lower)
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    return "\n".join(["--extra-index-url https://download.pytorch.org/whl/cpu", *pinned]) + "\n"


def _shape(path: Path) -> Document | None:
    """A row of the run's shape without its text, so that prompts are put as the model was taught; None for plain text."""
    first = next(iter(each_document(path)), None) if path.is_file() else None
    if first is None or first.payload is None:
        return None
    empty: dict[type, Payload] = {
        Pair: Pair("-", "-"),
        Chat: Chat(({"role": "user", "content": "-"}, {"role": "assistant", "content": "-"})),
        Tokens: Tokens((1,)),
    }
    return replace(
        first, id="shape", text="-", source="shape", position=0, group=None, parent=None, payload=empty[type(first.payload)]
    )


def _dockerfile() -> str:
    return (
        f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim\n"
        "RUN useradd --create-home --uid 1000 user\nUSER user\nWORKDIR /home/user/app\n"
        "COPY --chown=user requirements.txt .\nRUN pip install --no-cache-dir --user -r requirements.txt\n"
        'COPY --chown=user . .\nEXPOSE 7860\nCMD ["python", "app.py"]\n'
    )


def _readme(e: Evidence, base: str) -> str:
    return f"""---
title: {e.recipe.name}
sdk: docker
app_port: 7860
tags: [galvan]
---

# {e.recipe.name}: base and tuned side by side

The playground of galvan for one adapter of `{base}`. A prompt goes in; base and tuned write side by side with the same draws.

Before it answers, decide who may come in, under Settings, "Variables and secrets":

- the secret `GALVAN_APP_PASSWORD`, of at least 12 characters: who has it may use the playground; or
- the variable `GALVAN_APP_OPEN` = `1`: anyone may. One text is written at a time, of at most 1,024 tokens; nothing that is typed is kept.

With neither it ends with a sentence in its log. Open the page at the Space's own address (Embed this Space, Direct URL): in a frame of another
page browsers withhold its cookie. `HOST` and `PORT` say where it listens, 0.0.0.0 and 7860 unless told; to try it on your own machine:
`pip install -r requirements.txt`, then `HOST=127.0.0.1 GALVAN_APP_OPEN=1 python app.py`.
"""
