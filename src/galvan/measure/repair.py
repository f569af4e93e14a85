"""A corrected copy of an adapter whose fault is mechanical: names that a wrapper changed, a scale that training recorded otherwise.

The adapter itself is never written to, and no folder that exists is. Values are not touched: what was not learned cannot be mended.
"""

from __future__ import annotations

import filecmp
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from galvan.errors import ModelError, RecipeError
from galvan.measure.adapter_files import file_facts
from galvan.measure.facts import FileFacts, Recorded, broken
from galvan.measure.key_names import renamed
from galvan.measure.mlx import converted, is_mlx
from galvan.measure.recorded import REPAIRED as MARK
from galvan.measure.recorded import recorded
from galvan.models import Located, disk_error, read_config, weight_files
from galvan.rundir import appear, write_json, writing
from galvan.text import shown

_COPIED = {".json", ".jinja", ".model", ".txt", ".md"}
_SCALE = {"lora_alpha": "alpha", "r": "rank", "use_rslora": "use_rslora"}


def repair(base: Located, adapter: Located, out: Path) -> list[str]:
    """Write a corrected copy of `adapter` to the new folder `out`; returns what was changed, a sentence each.

    Raises RecipeError if `out` exists and is not that very copy, as an earlier call may have left it that was killed at its end; ModelError
    if nothing can be mended so, ResourceError if the disk refuses.
    """
    if is_mlx(adapter):
        from safetensors.numpy import save_file

        config, arrays = converted(adapter)
        changed = [
            f"{len(arrays)} factors of mlx-lm transposed and renamed as PEFT has them, and lora_alpha set to scale x rank = {config['lora_alpha']:g}."
        ]
        _new_folder(adapter, out, config, changed, lambda work: save_file(arrays, work / "adapter_model.safetensors", metadata={"format": "pt"}))  # fmt: skip
        return changed
    facts, record = file_facts(base, adapter), recorded(adapter)
    if facts.kind != "lora":
        raise ModelError("repair/kind", f"{shown(adapter.name)} is no LoRA adapter, and only those can be mended.")
    config = read_config(adapter.path / "adapter_config.json")
    scale = _scale(config, record)
    names = {old: new.name for old, new in renamed(facts.unexpected_keys, facts.missing_keys).items()}
    if facts.unexpected_keys and not facts.fits_after_renaming:
        names = {}
    if not scale and not names:
        raise ModelError("repair/nothing", f"{shown(adapter.name)} cannot be mended by a copy: {_why_not(facts)}.")
    changed = [
        f"{key} is {value}, as training recorded (it was {shown(str(config.get(key)), 40)})." for key, value in scale.items()
    ]
    changed += [f"{len(names)} keys renamed: {', '.join(facts.renames)}."] if names else []
    weights = weight_files(adapter, "adapter_model")

    def write_weights(work: Path) -> None:
        for path in weights:
            _write(path, work / path.name, names)

    _new_folder(adapter, out, {**config, **scale}, changed, write_weights)
    return changed


def _new_folder(
    adapter: Located, out: Path, config: Mapping[str, Any], changed: Sequence[str], write_weights: Callable[[Path], object]
) -> None:  # fmt: skip
    """The folder `out`, once all is in it: the adapter's texts, `config`, the mark, and its weights. It stays as it is where it is that already."""
    from safetensors import SafetensorError

    def fill(work: Path) -> None:
        for path in adapter.path.iterdir():
            if path.is_file() and path.suffix in _COPIED:
                shutil.copyfile(path, work / path.name)
        write_json(work / "adapter_config.json", config)
        write_json(work / MARK, {"repaired_from": adapter.name, "changes": changed})
        try:
            write_weights(work)
        except SafetensorError as error:
            raise disk_error(out, error, sum(p.stat().st_size for p in adapter.path.glob("*.safetensors"))) from error

    if not out.exists():
        appear(out, fill)
        return
    with writing(out), tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        if not _alike(Path(folder), out):
            raise RecipeError(
                "repair/exists", f"{shown(str(out))} is there already, and nothing is overwritten; name a new folder."
            )


def _alike(folder: Path, other: Path) -> bool:
    """Whether both are folders with the same files, byte for byte."""
    names = sorted(path.name for path in folder.iterdir())
    alike = other.is_dir() and names == sorted(path.name for path in other.iterdir())
    return alike and filecmp.cmpfiles(folder, other, names, shallow=False)[0] == names


def _scale(config: Mapping[str, Any], record: Recorded | None) -> dict[str, Any]:
    """What adapter_config.json says otherwise than training recorded, or not at all."""
    wanted = {key: getattr(record, name) for key, name in _SCALE.items()} if record else {}
    return {key: value for key, value in wanted.items() if value is not None and config.get(key) != value}


def _why_not(facts: FileFacts) -> str:
    why = broken(facts)
    return f"{why}, and no record of training or change of names mends that" if why else "nothing in its files is wrong"


def _write(path: Path, copy: Path, names: Mapping[str, str]) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata() or {"format": "pt"}
        tensors = {}
        for name in stream.keys():  # noqa: SIM118
            plain = re.sub(r"\.default(?=\.|$)", "", name)
            tensors[names.get(name, names.get(plain, name))] = stream.get_tensor(name).contiguous()
    save_file(tensors, copy, metadata=metadata)
