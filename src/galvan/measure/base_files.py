"""What the base's own files tell about an adapter, from safetensors headers and JSON alone: what it reaches, and whose vocabulary it knows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from galvan.errors import ModelError
from galvan.measure.facts import Coverage, Vocabulary
from galvan.models import Located, read_config, safetensors_header, weight_files

Shapes = Mapping[str, tuple[int, ...]]
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
HEADS = ("lm_head", "embed_out")
_TABLES = re.compile(rf"(?:^|\.)(?:{'|'.join((*EMBEDDINGS, *HEADS, 'wpe', 'embed_positions'))})(?:\.|$)")
_BLOCK = re.compile(r"^(.*?\.\d+)\.")


def base_shapes(base: Located) -> dict[str, tuple[int, ...]] | None:
    """Every tensor of the base by name; None where its weights are not safetensors."""
    try:
        return {name: shape for path in weight_files(base) for name, (_, shape) in safetensors_header(path).items()}
    except ModelError:
        return None


def matrices(shapes: Shapes) -> list[str]:
    """Modules of the base that hold a matrix; embeddings and the head are tables and do not count."""
    return [n.removesuffix(".weight") for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2 and not _TABLES.search(n)]


def coverage(shapes: Shapes, adapted: Collection[str], config: Mapping[str, Any]) -> Coverage:
    """What the adapter's modules are among the base's; all of them count that the adapter's file names."""
    linear, targets = matrices(shapes), config.get("target_modules")
    reached = set(adapted) & set(linear)
    names = list(shapes)
    return Coverage(
        linear=len(linear),
        adapted=len(reached),
        blocks=len(_blocks(linear)),
        adapted_blocks=len(_blocks(reached)),
        unmatched=tuple(sorted(t for t in targets if not any(f".{n}".endswith(f".{t}.weight") for n in names)))
        if isinstance(targets, list)
        else (),
        deliberate=isinstance(targets, str)
        or any(_BLOCK.match(f"{t}.") for t in targets or ())  # modules named with the number of their block
        or any(config.get(k) is not None for k in ("layers_to_transform", "layers_pattern", "exclude_modules")),
    )


def _blocks(modules: Collection[str]) -> set[str]:
    return {match[1] for name in modules if (match := _BLOCK.match(name))}


def vocabulary(base: Located, tuned: Located, shapes: Shapes, saved: Shapes) -> Vocabulary | None:
    """Rows and ids on both sides; None where the base has no embedding that we know by name. `saved` are the adapter's tensors."""
    tables = [n for n in shapes if _TABLES.search(n) and n.split(".")[-2] in (*EMBEDDINGS, *HEADS) and len(shapes[n]) == 2]
    if not tables:
        return None
    rows = [s[0] for n, s in saved.items() if n.endswith(".weight") and n.split(".")[-2] in (*EMBEDDINGS, *HEADS) and len(s) == 2]
    own, theirs = _tokens(base), _tokens(tuned)
    if theirs is None or own is None:
        return Vocabulary(shapes[tables[0]][0], saved_rows=tuple(rows))
    new = sorted(set(theirs) - set(own) - _padding(tuned))
    return Vocabulary(shapes[tables[0]][0], max(theirs.values(), default=-1) + 1, tuple(rows), tuple(new[:20]))


def _tokens(located: Located) -> dict[str, int] | None:
    """Token to id, from tokenizer.json."""
    path = located.path / "tokenizer.json"
    if not path.is_file():
        return None
    value = read_config(path)
    model = value.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = dict(vocab) if isinstance(vocab, dict) else {str(row[0]): i for i, row in enumerate(vocab or []) if row}
    for token in value.get("added_tokens") or []:
        ids[str(token.get("content"))] = token.get("id")
    return {token: i for token, i in ids.items() if isinstance(i, int)}


def _padding(located: Located) -> set[str]:
    path = located.path / "tokenizer_config.json"
    token = read_config(path).get("pad_token") if path.is_file() else None
    return {str(token.get("content") if isinstance(token, dict) else token)}


def head_overwritten(model: Located) -> bool | None:
    """Of a whole model: its config ties the head to the embedding, though its file holds a head that is another matrix (B11).

    Loading ties them, and one of the two is lost. None where the config ties nothing.
    """
    from safetensors import safe_open

    if not read_config(model.path / "config.json").get("tie_word_embeddings"):
        return None
    tables = {}
    for path in weight_files(model):
        with safe_open(path, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118
                part = name.split(".")[-2] if name.count(".") else ""
                if part in (*EMBEDDINGS, *HEADS):
                    tables["head" if part in HEADS else "embedding"] = stream.get_tensor(name)
    if len(tables) < 2:
        return False
    head, embedding = tables["head"], tables["embedding"]
    return head.shape != embedding.shape or bool((head != embedding).any())
