"""`--repair`: a copy whose names and scale are those that the base and training know; never in place, never over anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from galvan import pipeline
from galvan.errors import ModelError, RecipeError
from galvan.measure.key_names import renamed
from galvan.measure.repair import repair
from galvan.models import Located
from models_for_tests import save_adapter, save_base, tiny_llama


def at(path: Path) -> Located:
    return Located(str(path), path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base", tiny_llama(0))


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def rename(folder: Path, old: str, new: str) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def configure(folder: Path, **changes: object) -> Path:
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


NAMES = {
    "compiled": ("base_model.model.", "base_model.model._orig_mod."), "inner": (".self_attn", ".inner.self_attn"), "no prefix": ("base_model.model.", ""),
    "nested": ("base_model.model.", "base_model.model.base_model.model."), "no head": ("base_model.model.model.", "base_model.model."),
    "swallowed": (".lora_", "_"), "another adapter's name": (".weight", ".voice.weight"),
    "another program's prefix": ("base_model.model.", "diffusion_model."),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), NAMES.values(), ids=NAMES)
def test_names_are_mended_in_a_copy_that_then_holds_the_same_tensors(base: Path, tmp_path: Path, old: str, new: str) -> None:
    whole = load_file(save_adapter(tmp_path / "whole", tiny_llama(0)) / "adapter_model.safetensors")
    folder = rename(save_adapter(tmp_path / "a", tiny_llama(0)), old, new)
    before = digests(folder)
    assert pipeline.check(str(base), str(folder), load=False).alive is False
    found = pipeline.check(str(base), str(folder), load=False, repair=tmp_path / "out")
    assert found.alive is not False and found.repaired and not [f for f in found.findings if f.status == "present"]
    copy = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert copy.keys() == whole.keys() and all(torch.equal(copy[name], whole[name]) for name in whole)
    assert digests(folder) == before


def test_names_that_no_change_mends_are_said_to_be_so(base: Path, tmp_path: Path) -> None:
    folder = rename(save_adapter(tmp_path / "a", tiny_llama(0)), "self_attn", "attention")
    text = " ".join(pipeline.check(str(base), str(folder), load=False).to_text().split())
    assert "error[B01]" in text and "--repair cannot mend it" in text


def test_an_adapter_that_names_another_base_is_remarked_on_and_not_refused(base: Path, tmp_path: Path) -> None:
    folder = configure(save_adapter(tmp_path / "a", tiny_llama(0)), base_model_name_or_path="org/other")
    found = pipeline.check(str(base), str(folder), load=False)
    assert "notice[A10]: The adapter was made for org/other" in found.to_text() and found.alive is None
    named = configure(folder, base_model_name_or_path=str(base))
    assert "A10]" not in pipeline.check(str(base), str(named), load=False).to_text()


@pytest.mark.parametrize("alpha", [..., 0, 99])
def test_a_scale_is_taken_from_the_record_of_training(base: Path, tmp_path: Path, alpha: object) -> None:
    folder = configure(save_adapter(tmp_path / "adapter", tiny_llama(0)), lora_alpha=alpha)
    (tmp_path / "training.json").write_text(json.dumps({"alpha": 8, "rank": 4, "use_rslora": False}))
    assert [f.code for f in pipeline.check(str(base), str(folder), load=False).findings if f.status == "present"] == ["C02"]
    found = pipeline.check(str(base), str(folder), repair=tmp_path / "out")
    assert found.alive is True and json.loads((tmp_path / "out/adapter_config.json").read_text())["lora_alpha"] == 8
    assert found.repaired and "as training recorded" in found.repaired[0] and "Repaired in a copy" in found.to_text()


def test_nothing_is_overwritten_and_nothing_half_written_is_left(base: Path, tmp_path: Path) -> None:
    folder = rename(save_adapter(tmp_path / "a", tiny_llama(0)), ".self_attn", ".inner.self_attn")
    for there in (folder, tmp_path):
        with pytest.raises(RecipeError, match="is there already"):
            repair(at(base), at(folder), there)
    whole = save_adapter(tmp_path / "whole", tiny_llama(0))
    with pytest.raises(ModelError, match="nothing in its files is wrong"):
        repair(at(base), at(whole), tmp_path / "out")
    dead = save_adapter(tmp_path / "dead", tiny_llama(0), trained=False)
    with pytest.raises(ModelError, match="every update in it is zero, and no record"):
        repair(at(base), at(dead), tmp_path / "out")
    lost = configure(save_adapter(tmp_path / "lost", tiny_llama(0)), lora_alpha=...)
    with pytest.raises(ModelError, match="scaled by zero or by nothing, and no record"):
        repair(at(base), at(lost), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "dead", "lost", "whole"]


def test_the_same_call_again_ends_as_the_first_and_leaves_a_copy_that_was_changed_alone(base: Path, tmp_path: Path) -> None:
    """A process can be killed when the copy has its name and the command has not ended."""
    folder, out = rename(save_adapter(tmp_path / "a", tiny_llama(0)), ".self_attn", ".inner.self_attn"), tmp_path / "out"
    assert repair(at(base), at(folder), out) == repair(at(base), at(folder), out)
    (out / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="is there already"):
        repair(at(base), at(folder), out)
    assert (out / "adapter_config.json").read_text() == "{}"


def test_a_name_is_given_to_one_tensor_only_and_by_the_fewest_changes() -> None:
    expected = ["base_model.model.model.q.lora_A.weight"]
    found = renamed(["base_model.model._orig_mod.model.q.lora_A.weight", "base_model.model.inner.model.q.lora_A.weight"], expected)
    assert [new.name for new in found.values()] == expected and len(found) == 1
    assert renamed(["base_model.model.other.lora_A.weight"], expected) == {}
