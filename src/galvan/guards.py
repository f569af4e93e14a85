"""What the repository of a model or an adapter may not hold, asked before anything of it is loaded.

Code is never run, whatever a config names: `trust_remote_code` is False at every load and pickles are not opened. Here is what a library
would follow without being asked: attention kernels from a hub, modules named by an adapter, links and names that leave the folder, and
shapes for which memory would be taken before anybody compares them with the weights.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from galvan.errors import ModelError, ResourceError
from galvan.text import shown

FLOORS = {
    "torch": (2, 10),
    "transformers": (5, 3),
    "starlette": (1, 0, 1),
    "ray": (2, 54),
}  # below these holes are known in what galvan uses
LARGEST_TEXT_BYTES = 256 << 20  # the largest tokenizer.json of today is a tenth of it
MOST_RANK = 65_536
MOST_ROUNDS = 1000  # of PiSSA's approximation; the paper takes 4
_ATTENTION = ("attn_implementation", "experts_implementation")
_KNOWN_ATTENTION = {"", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4", "grouped_mm", "batched_mm"}  # fmt: skip
_READ_WHOLE = {".json", ".jinja", ".txt", ".model"}
_TEMPLATES = "additional_chat_templates"  # transformers reads all of this folder
_ELSEWHERE = (
    "adapters",
    "shadow_model",
    "prompt_tuning_init_state_dict_path",
)  # X-LoRA, Shadow, multitask prompts: PEFT loads what they name
_PER_WIDTH = ("vocab_size", "n_positions", "num_local_experts", "num_experts", "n_routed_experts")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_PACKED = 8  # values of a quantised weight that one element of the file may hold


def too_old(name: str, found: str) -> str | None:
    """The sentence for a version below its floor; None where it is not, or has none."""
    floor = FLOORS.get(name, ())
    if tuple(int(number) for number in re.findall(r"\d+", found)[: len(floor)]) >= floor:
        return None
    return f"{name} {found} is older than {'.'.join(map(str, floor))}, which mends security holes; upgrade it."


@cache
def require_floors(*names: str) -> None:
    """ResourceError where one of those packages is installed in a version with known holes."""
    for name in names:
        with suppress(PackageNotFoundError):
            if (sentence := too_old(name, version(name))) is not None:
                raise ResourceError("environment/too-old", sentence)


def require_plain_files(folder: Path, name: str) -> None:
    """ModelError if an entry of the folder is no file or folder, is a text too large to be read, or is a link out of it.

    Links within the Hub's cache, from a snapshot to its blobs, are as its client makes them.
    """
    templates = folder / _TEMPLATES
    for path in sorted([*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]):
        if path.is_symlink() and not _stays(path, folder):
            raise ModelError("model/link", f"{shown(name)}: {shown(path.name)} is a link to a place outside of its folder; put the file itself there.")  # fmt: skip
        if not (path.is_file() or path.is_dir()):
            raise ModelError("model/not-a-file", f"{shown(name)}: {shown(path.name)} is neither a file nor a folder; remove it.")
        if path.suffix in _READ_WHOLE and path.is_file() and path.stat().st_size > LARGEST_TEXT_BYTES:
            raise ModelError("model/too-large", f"{shown(name)}: {shown(path.name)} has {path.stat().st_size:,} bytes, more than any such file needs; get it again from its source.")  # fmt: skip


def _stays(link: Path, folder: Path) -> bool:
    target, home = link.resolve(), folder.resolve()
    cached = home.parent.name == "snapshots" and target.is_relative_to(home.parent.parent / "blobs")
    return cached or target.is_relative_to(home)


def require_harmless_config(config: Mapping[str, Any], name: str) -> None:
    """ModelError if a model's config names attention code from a hub, for which transformers would go there and run it, or other weights
    than those that are checked and fingerprinted."""
    if weights := config.get("transformers_weights"):
        raise ModelError("model/path", f"{shown(name)}: its config.json takes the weights from {shown(str(weights), 80)} (transformers_weights); name that file model.safetensors and remove the line.")  # fmt: skip
    for key, value in _entries(config):
        if key.strip("_").removesuffix("_internal") in _ATTENTION:
            for one in value.values() if isinstance(value, Mapping) else [value]:
                if one is not None and str(one).removeprefix("paged|") not in _KNOWN_ATTENTION:
                    raise ModelError("model/kernel", f"{shown(name)}: its config.json asks for the code `{shown(str(one), 80)}` ({shown(key)}), and galvan runs none from elsewhere; remove that line.")  # fmt: skip


def require_plausible_shapes(config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]], name: str) -> None:
    """ModelError if the config describes a model far larger than its weights, which would take its memory before they are compared."""
    known = list(shapes)
    if not known:
        return
    total = _PACKED * sum(math.prod(shape) for shape in known)
    for part in (part for part in (config, config.get("text_config")) if isinstance(part, Mapping)):
        width = next((part[key] for key in _WIDTHS if _is_size(part.get(key))), 1)
        wanted = {key: part[key] * width for key in _PER_WIDTH if _is_size(part.get(key))}
        wanted |= {key: part[key] for key in (*_WIDTHS, "num_labels") if _is_size(part.get(key))}
        wanted |= {key: part[key] * total // len(known) for key in _LAYERS if _is_size(part.get(key))}
        for key, values in wanted.items():
            if values > total:
                raise ModelError("model/shape", f"{shown(name)}: its config.json says {key} {shown(f'{part[key]:,}', 40)}, for which its weights ({sum(map(math.prod, known)):,} values) are far too few; get config and weights of one model.")  # fmt: skip


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def require_harmless_adapter(config: Mapping[str, Any], name: str) -> None:
    """ModelError if an adapter's config names a module to import, or sizes for which PEFT would take memory before it opens the weights."""
    if config.get("megatron_config"):
        raise ModelError("adapter/code", f"{shown(name)}: its adapter_config.json names the module `{shown(str(config.get('megatron_core')), 80)}` to be imported (megatron_config); remove both lines.")  # fmt: skip
    if places := [key for key in _ELSEWHERE if config.get(key)]:
        raise ModelError("adapter/path", f"{shown(name)}: its adapter_config.json names something to load from elsewhere ({places[0]}: {shown(str(config[places[0]]), 80)}), which galvan does not follow.")  # fmt: skip
    if any(
        isinstance(one, int) and abs(one) >= 1 << 31
        for _, value in _entries(config)
        for one in (value if isinstance(value, list) else [value])
    ):
        raise ModelError("adapter/shape", f"{shown(name)}: its adapter_config.json holds a number beyond two thousand million, which no adapter has; get it again from its source.")  # fmt: skip
    rounds = re.fullmatch(r"pissa_niter_(\d{1,18})", str(config.get("init_lora_weights")))
    if rounds and int(rounds[1]) > MOST_ROUNDS:
        raise ModelError("adapter/shape", f"{shown(name)}: its adapter_config.json asks for {int(rounds[1]):,} rounds of PiSSA (init_lora_weights), which would not end; set it to true.")  # fmt: skip
    ranks = [
        config.get("r"),
        *_values(config.get("rank_pattern")),
        config.get("num_virtual_tokens"),
        config.get("num_tokens"),
        config.get("num_vectors"),
        config.get("vector_length"),
    ]
    if any(isinstance(rank, int) and rank > MOST_RANK for rank in ranks):
        raise ModelError("adapter/shape", f"{shown(name)}: its adapter_config.json asks for a rank or length above {MOST_RANK:,}, which no adapter has; get it again from its source.")  # fmt: skip
    if isinstance(copies := config.get("layer_replication"), list) and len(copies) > 1000:
        raise ModelError("adapter/shape", f"{shown(name)}: its adapter_config.json repeats layers {len(copies):,} times; get it again from its source.")  # fmt: skip


def _values(pattern: object) -> list[object]:
    return list(pattern.values()) if isinstance(pattern, Mapping) else []


def require_plain_names(index: Path, name: str) -> None:
    """ModelError if the index of shards points out of the folder."""
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # what cannot be read is refused where it is loaded
    for shard in set(map(str, weights)):
        if shard != os.path.basename(shard) or shard in {"", ".", ".."}:  # noqa: PTH119
            raise ModelError("model/path", f"{shown(name)}: {shown(index.name)} names the file {shown(shard, 80)}, which is not in its folder; get it again from its source.")  # fmt: skip


def _entries(config: Mapping[str, Any], depth: int = 8) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield str(key), value
        if isinstance(value, Mapping) and depth:
            yield from _entries(value, depth - 1)
