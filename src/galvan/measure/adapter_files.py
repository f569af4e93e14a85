"""What an adapter's files tell on their own: no base is loaded, its safetensors headers and config are enough.

Keys are first held against the base's headers, which takes milliseconds and can only acquit: where they are not exactly the
expected ones, PEFT itself loads the names onto a model without weights (torch's meta device) and says what does not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galvan.errors import ModelError
from galvan.measure import key_names
from galvan.measure.arrays import Array, read_arrays
from galvan.measure.base_files import Shapes, base_shapes, coverage, head_overwritten, vocabulary
from galvan.measure.facts import FileFacts, ModuleDelta
from galvan.measure.key_names import PREFIX
from galvan.models import Located, fingerprints, load_tokenizer, quiet, read_config, safetensors_header, weight_files
from galvan.rundir import sha256_file
from galvan.text import shown

Header = dict[str, tuple[str, tuple[int, ...]]]
# PEFT also takes keys that kept the adapter's name, if it is "default".
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?:(?P<factor>[AB])(?:\.[^.]+)?\.weight|embedding_(?P<embedding>[AB]))$")
# What belongs to a LoRA besides its factors; PEFT also saves a copy of the base's weight where an embedding or a head is adapted.
_PART_OF_LORA = re.compile(
    r"\.(?:lora_(?:[AB](?:\.[^.]+)?\.(?:weight|bias)|embedding_[AB]|magnitude_vector(?:\.weight)?)|base_layer\.weight)$"
)
# Each of these changes which keys are expected in ways that only PEFT knows.
_BEYOND_HEADERS = (
    "use_dora", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices", "exclude_modules",
    "layers_to_transform",
)  # fmt: skip


def file_facts(base: Located, tuned: Located) -> FileFacts:
    """Facts from the files of `base` and of `tuned`, an adapter or a whole model; neither is loaded.

    Raises ModelError where weights or configs are missing or damaged, or are pickles.
    """
    if not (tuned.path / "adapter_config.json").is_file() and (tuned.path / "config.json").is_file():
        own = fingerprints(tuned).weights
        same = _same_folder(base, tuned) or own == fingerprints(base).weights
        return FileFacts(
            "full", own, same, same_tokenizer(base, tuned), dtypes=_dtypes(tuned, "model"), head_overwritten=head_overwritten(tuned)
        )
    paths = weight_files(tuned, "adapter_model")
    config = read_config(tuned.path / "adapter_config.json")
    headers = {path: safetensors_header(path) for path in paths}
    header = {name: entry for part in headers.values() for name, entry in part.items()}
    peft_type = config.get("peft_type")
    task = config.get("task_type")
    shapes = base_shapes(base)
    recorded = config.get("base_model_name_or_path")
    facts = FileFacts(
        "lora" if peft_type == "LORA" else "other",
        _digest(tuned),
        _same_folder(base, tuned) or _holds_the_same_adapter(base, tuned),
        same_tokenizer(base, tuned),
        peft_type=peft_type if isinstance(peft_type, str) else None,
        recorded_base=recorded if isinstance(recorded, str) else None,
        recorded_base_matches=_is_recorded(recorded, base),
        n_keys=len(header),
        dtypes=tuple(sorted({dtype for dtype, _ in header.values()})),
        has_metadata=any(_has_metadata(path) for path in paths),
        task_type=task if isinstance(task, str) else None,
        changes_base=_changes_base(config),
    )
    if facts.kind == "other":
        why = f"its keys and values are known for LoRA only, and its peft_type is {shown(str(peft_type), 40)}"
        return dataclasses.replace(facts, reason=why)
    targets = config.get("target_modules") or []
    facts = dataclasses.replace(
        facts,
        rank=_number(config.get("r")),
        alpha=_number(config.get("lora_alpha")),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(map(str, targets))),
        empty_tensors=tuple(sorted(name for name, (_, shape) in header.items() if math.prod(shape) == 0)),
    )
    facts = _with_keys(facts, base, tuned, config, header, shapes)
    facts = _with_values(facts, config, headers)
    if shapes is None:
        return facts
    saved = {name: shape for name, (_, shape) in header.items()}
    known = vocabulary(base, tuned if facts.same_tokenizer is False else base, shapes, saved)
    return dataclasses.replace(facts, coverage=coverage(shapes, [m.module for m in facts.modules], config), vocabulary=known)


def _has_metadata(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="np") as stream:  # "pt" would import torch
        return bool(stream.metadata())


def _dtypes(located: Located, stem: str) -> tuple[str, ...]:
    return tuple(sorted({dtype for path in weight_files(located, stem) for dtype, _ in safetensors_header(path).values()}))


def _changes_base(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings by which the model with this adapter switched off is not the base that it was put into."""
    start = str(config.get("init_lora_weights", "")).lower()
    moved = [f"bias={config['bias']}"] if config.get("bias", "none") not in (None, "none") else []
    moved += [f"init_lora_weights={shown(start, 40)}"] if start.startswith(("pissa", "olora", "loftq", "corda")) else []
    return tuple(moved + (["trainable_token_indices"] if config.get("trainable_token_indices") else []))


def _digest(adapter: Located) -> str:
    """SHA-256 of the adapter's file; of the names and digests of its files where it has several."""
    paths = weight_files(adapter, "adapter_model")
    if len(paths) == 1:
        return sha256_file(paths[0])
    return hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in paths).encode()).hexdigest()


def _same_folder(base: Located, tuned: Located) -> bool:
    return base.path.resolve() == tuned.path.resolve()


def _holds_the_same_adapter(base: Located, tuned: Located) -> bool:
    """True if an adapter was given in the base's place too, and is this one."""
    if not list(base.path.glob("adapter_model*.safetensors")):
        return False
    return _digest(base) == _digest(tuned)


def same_tokenizer(base: Located, tuned: Located) -> bool | None:
    """Whether both tokenizers give the same ids; padding and truncation settings, which trainers leave behind, do not count.

    Files that differ are compared as transformers loads them: for some architectures (Qwen 2) it puts the normaliser and the splitting of
    its own class in the place of the file's, and saving writes those.
    """
    first, second = base.path / "tokenizer.json", tuned.path / "tokenizer.json"
    if not first.is_file() or not second.is_file():
        return None
    if sha256_file(first) == sha256_file(second) or _steps(read_config(first)) == _steps(read_config(second)):
        return True
    try:
        loaded = [json.loads(load_tokenizer(one).backend_tokenizer.to_str()) for one in (base, tuned)]
    except ModelError:
        return False
    return _steps(loaded[0]) == _steps(loaded[1])


def _steps(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tokenizer.items() if name not in ("padding", "truncation")}


def _is_recorded(recorded: object, base: Located) -> bool | None:
    """Whether adapter_config.json names this base; None where a name cannot decide it (one is a folder, the other a Hub id)."""
    if not isinstance(recorded, str) or not recorded:
        return None
    given = base.name.partition("@")[0]
    if recorded == given or recorded == str(base.path):
        return True
    hub_id = re.compile(r"[\w-][\w.-]*/[\w.-]+")
    return False if base.revision and hub_id.fullmatch(recorded) and hub_id.fullmatch(given) else None


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def _with_keys(
    facts: FileFacts, base: Located, tuned: Located, config: Mapping[str, Any], header: Header, shapes: Shapes | None
) -> FileFacts:
    expected = _expected_from_headers(shapes, config)
    if expected is not None and header.keys() == expected.keys():
        ill = () if facts.empty_tensors else _ill_shaped(header, expected)
        if not facts.empty_tensors and not (ill and _packed(base)):
            return dataclasses.replace(facts, n_expected_keys=len(expected), keys_proved_by="base headers", ill_shaped=ill)
    found = _ask_peft(facts, base, tuned, header)
    if shapes is None or found.keys_proved_by is not None or facts.empty_tensors or _packed(base):
        return found
    return dataclasses.replace(found, ill_shaped=_ill_shaped(header, _adapted(shapes, header)))


def _packed(base: Located) -> bool:
    """Its matrices are quantised, and lie in other shapes."""
    return bool(read_config(base.path / "config.json").get("quantization_config"))


def _adapted(weights: Shapes, header: Header) -> dict[str, tuple[int, ...]]:
    """Of the file's plain factors A, with their B, those whose module the base has: the shape of its weight."""
    modules = {n: f"{n.removeprefix(PREFIX).removesuffix('.lora_A.weight')}.weight" for n in header if n.endswith(".lora_A.weight")}
    whole = {n: w for n, w in modules.items() if n.replace(".lora_A.", ".lora_B.") in header}
    return {n: weights[w] for n, w in whole.items() if len(weights.get(w, ())) == 2}


def _expected_from_headers(weights: Shapes | None, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Expected key to the shape of the base weight that it adapts; None where headers cannot tell."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or any(config.get(name) for name in _BEYOND_HEADERS) or config.get("bias", "none") != "none":
        return None
    if weights is None:
        return None
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        module, dot, last = name.rpartition(".")
        if dot and last == "weight" and len(shape) == 2 and any(module == t or module.endswith(f".{t}") for t in targets):
            expected.update({f"{PREFIX}{module}.lora_{factor}.weight": shape for factor in "AB"})
    return expected


def _ill_shaped(header: Header, expected: Shapes) -> tuple[str, ...]:
    """Names of factors A that, with their B, do not fit: A is [r, in] and B [out, r] for a weight [out, in] (Conv1D: [in, out])."""
    ill = []
    for name, weight in expected.items():
        if name.endswith(".lora_A.weight"):
            a, b = header[name][1], header[name.replace(".lora_A.", ".lora_B.")][1]
            if len(a) != 2 or len(b) != 2 or a[0] != b[1] or sorted((a[1], b[0])) != sorted(weight):
                ill.append(name)
    return tuple(sorted(ill))


def _ask_peft(facts: FileFacts, base: Located, tuned: Located, header: Header) -> FileFacts:
    """Let PEFT load the file's names onto the base's architecture without weights, and take its word."""
    import torch
    from peft import PeftConfig, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    from galvan.measure.live import keep_random_state

    try:
        with quiet(), keep_random_state(), torch.device("meta"):
            shape_only = AutoConfig.from_pretrained(base.path, trust_remote_code=False, local_files_only=True)
            model = AutoModelForCausalLM.from_config(shape_only, trust_remote_code=False)
            names = {name for name, _ in model.named_modules()}
            config = PeftConfig.from_pretrained(tuned.path)
            config.init_lora_weights = False
            wrapped = PeftModelForCausalLM(model, config)
            expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
            result = set_peft_model_state_dict(wrapped, {name: torch.empty(shape) for name, (_, shape) in header.items()})
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return dataclasses.replace(facts, reason=f"PEFT cannot put its names onto this base: {shown(first_line, 200)}")
    missing = [k.replace(".default", "") for k in result.missing_keys if ".default" in k]
    unexpected = [re.sub(r"\.default(?=\.|$)", "", k) for k in result.unexpected_keys]
    found = key_names.renamed(unexpected, missing)
    modules = {match["module"].removeprefix(PREFIX) for key in unexpected if (match := _FACTOR.match(key))}
    return dataclasses.replace(
        facts,
        n_expected_keys=len(expected),
        keys_proved_by="PEFT",
        missing_keys=tuple(sorted(missing)),
        unexpected_keys=tuple(sorted(unexpected)),
        foreign_modules=tuple(sorted(modules - names)),
        renames=key_names.labels(found),
        renamable=len(found),
    )


def _with_values(facts: FileFacts, config: Mapping[str, Any], headers: Mapping[Any, Header]) -> FileFacts:
    """Read every tensor once: what is not finite, and of each module the largest entries and the norm of its update."""
    factors: dict[str, dict[str, Array]] = {}
    not_finite: list[str] = []
    other: list[str] = []
    for name, array in (pair for path in headers for pair in read_arrays(path)):
        if not np.isfinite(array).all():
            not_finite.append(name)
        match = _FACTOR.match(name)
        if match:
            factors.setdefault(match["module"], {})[match["factor"] or match["embedding"]] = array
        elif not _PART_OF_LORA.search(name) and name not in facts.unexpected_keys:
            other.append(name)
    modules = [_delta(name.removeprefix(PREFIX), pair, config) for name, pair in sorted(factors.items())]
    return dataclasses.replace(
        facts, not_finite=tuple(sorted(not_finite)), other_tensors=tuple(sorted(other)), modules=tuple(modules)
    )


def _delta(module: str, pair: Mapping[str, Array], config: Mapping[str, Any]) -> ModuleDelta:
    a, b = (_matrix(pair[k]) if k in pair and pair[k].ndim >= 2 else None for k in "AB")
    largest = [float(np.abs(t).max()) if t is not None and t.size and np.isfinite(t).all() else None for t in (a, b)]
    scaling = effective_scaling(module, config)
    norm = None
    # Adapted parameters (experts) stack many factors in one tensor, whose product is not their update.
    if a is not None and b is not None and scaling is not None and None not in largest and not config.get("target_parameters"):
        norm = abs(scaling) * update_norm(a, b)
    return ModuleDelta(module, None if a is None else int(a.shape[0]), scaling, largest[0], largest[1], norm)


def _matrix(array: Array) -> Array:
    """[first dimension, all others]; what has no elements stays so."""
    return array.reshape(array.shape[0], math.prod(array.shape[1:])).astype(np.float32, copy=False)


def update_norm(a: Any, b: Any) -> float:
    """Frobenius norm of B A for A [r, in] and B [out, r], from the two [r, r] Gram matrices: |BA|^2 = sum(B'B * AA').

    Each factor is divided by its largest entry first, so that squares of tiny updates do not underflow.
    """
    a, b = np.asarray(a), np.asarray(b)
    scale_a, scale_b = float(np.abs(a).max()), float(np.abs(b).max())
    if scale_a == 0 or scale_b == 0:
        return 0.0
    a, b = a / a.dtype.type(scale_a), b / b.dtype.type(scale_b)
    squared = float(((b.T @ b).astype(np.float64) * (a @ a.T).astype(np.float64)).sum())
    return scale_a * scale_b * math.sqrt(max(0.0, squared))


def effective_scaling(module: str, config: Mapping[str, Any]) -> float | None:
    """alpha / r, or alpha / sqrt(r) with rsLoRA, with the module's own rank and alpha where the patterns name it.

    None where alpha or r is not recorded or is no number: PEFT would quietly take its default of 8.
    """
    alpha = _number(_by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha")))
    rank = _number(_by_pattern(config.get("rank_pattern"), module, config.get("r")))
    if alpha is None or rank is None or rank <= 0:
        return None
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(patterns: object, module: str, default: object) -> object:
    """The value whose pattern matches the end of the module's name, as in peft.utils.other.get_pattern_key."""
    for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return default
