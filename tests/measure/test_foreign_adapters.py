"""Adapters that other programs and other methods made: read, converted or named, and no trained one is called dead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from galvan import pipeline
from galvan.errors import ModelError
from galvan.recipe import Model
from models_for_tests import byte_tokenizer, save_adapter, save_base, tiny_llama

CPU = Model(device="cpu", dtype="float32")
SCALE, RANK = 20.0, 3
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base", tiny_llama(0))


def mlx_adapter(
    folder: Path, layers: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float32, **changes: Any
) -> dict[str, torch.Tensor]:
    """As mlx_lm.lora writes it: lora_a [in, r], lora_b [r, out], names of the modules alone."""
    folder.mkdir()
    generator, tensors = torch.Generator().manual_seed(0), {}
    modules = dict(tiny_llama(0).named_modules())
    for name in (f"model.layers.{layer}.{target}" for layer in layers for target in TARGETS):
        n_out, n_in = modules[name].weight.shape
        tensors[f"{name}.lora_a"] = torch.randn(n_in, RANK, generator=generator).to(dtype) * 0.2
        tensors[f"{name}.lora_b"] = torch.randn(RANK, n_out, generator=generator).to(dtype) * 0.02
    save_file(tensors, folder / "adapters.safetensors")
    config = {
        "fine_tune_type": "lora", "model": "mlx-community/tiny", "num_layers": len(layers),
        "lora_parameters": {"rank": RANK, "dropout": 0.0, "scale": SCALE}, **changes,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def mlx_logits(tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The formula of mlx_lm/tuner/lora.py, put onto the plain model by hand: y + scale * (x @ a) @ b."""
    model = tiny_llama(0)
    for name, module in model.named_modules():
        if f"{name}.lora_a" in tensors:
            a, b = tensors[f"{name}.lora_a"].float(), tensors[f"{name}.lora_b"].float()
            module.register_forward_hook(lambda _m, args, y, a=a, b=b: y + SCALE * ((args[0] @ a) @ b))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_mlx_adapter_is_converted_to_the_same_logits(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = mlx_adapter(tmp_path / "mlx", dtype=dtype)
    with pytest.raises(ModelError, match="--repair OUT") as refused:
        pipeline.check(base, tmp_path / "mlx")
    assert refused.value.code == "adapter/mlx"
    found = pipeline.check(base, tmp_path / "mlx", repair=tmp_path / "out", model=CPU)
    assert found.alive is True and not [f for f in found.findings if f.status == "present"]
    assert found.repaired and "mlx-lm" in found.repaired[0]
    ids = torch.tensor([byte_tokenizer()("The storm passed over the lake.")["input_ids"]])
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, tmp_path / "out").eval()(ids).logits
    torch.testing.assert_close(after, mlx_logits(tensors, ids), rtol=1e-4, atol=1e-5)
    assert float((after - before).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"lora_parameters": {"rank": RANK}}, "adapter/mlx-scale"), ({"fine_tune_type": "dora"}, "adapter/mlx-kind"), ({"fine_tune_type": "full"}, "adapter/mlx-kind")],
)  # fmt: skip
def test_an_mlx_adapter_that_cannot_be_converted_is_refused_and_nothing_is_written(
    base: Path, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    mlx_adapter(tmp_path / "mlx", **changes)
    with pytest.raises(ModelError) as refused:
        pipeline.check(base, tmp_path / "mlx", repair=tmp_path / "out")
    assert refused.value.code == code and sorted(p.name for p in tmp_path.iterdir()) == ["mlx"]


# What LLaMA-Factory, Axolotl and Unsloth leave beside a PEFT adapter (no pickle is opened: training_args.bin is no pickle at all here).
BESIDE = {
    "LLaMA-Factory": {
        "all_results.json": '{"epoch": 3.0, "train_loss": 2.07}', "train_results.json": "{}", "trainer_log.jsonl": '{"current_steps": 10, "loss": 2.2}\n',
        "trainer_state.json": '{"global_step": 20, "log_history": [{"step": 10, "loss": 2.2, "learning_rate": 1e-4, "grad_norm": 1.0}]}',
        "training_args.bin": "not a pickle", "training_loss.png": "", "README.md": "---\nlibrary_name: peft\n---\n", "special_tokens_map.json": "{}",
    },
    "Axolotl": {"config.json": '{"model_type": "llama"}', "README.md": "x", "chat_template.jinja": "{{ messages }}", "added_tokens.json": "{}", "debug.log": "x"},
    "Unsloth": {"README.md": "x", "special_tokens_map.json": "{}", "tokenizer.model": "x", "preprocessor_config.json": "{}"},
}  # fmt: skip
EXTRA = {"LLaMA-Factory": {}, "Axolotl": {"auto_mapping": None}, "Unsloth": {"auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama", "unsloth_fixed": True}, "base_model_name_or_path": "unsloth/tiny"}}  # fmt: skip


@pytest.mark.parametrize("program", BESIDE)
def test_files_that_other_programs_leave_beside_an_adapter_are_tolerated(base: Path, tmp_path: Path, program: str) -> None:
    folder = save_adapter(tmp_path / "a", tiny_llama(0))
    byte_tokenizer().save_pretrained(folder)
    for name, text in BESIDE[program].items():
        (folder / name).write_text(text)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **EXTRA[program]}))
    found = pipeline.check(base, folder, model=CPU)
    sound = {f.code for f in found.findings if f.status == "present" and f.certainty in ("certain", "very likely")}
    assert found.alive is True and not sound


def trained(model: Any) -> Any:
    """Every trainable parameter moved, as training moves it."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model.eval()


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **changes})


METHODS: dict[str, tuple[Any, bool | None]] = {  # whether liveness is shown: a learned prompt lengthens the input, so tokens do not line up
    "IA3": (IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]), True),
    "prompt tuning": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), None),
    "prefix tuning": (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), None),
    "saved modules": (lora(modules_to_save=["lm_head"]), True),
    "embeddings": (lora(target_modules=["q_proj", "embed_tokens"]), True),
    "embedding and head saved": (lora(modules_to_save=["embed_tokens", "lm_head"]), True),
    "token rows": (lora(trainable_token_indices={"embed_tokens": [1, 2, 100]}), True),
    "target parameters": (lora(target_modules=[], target_parameters=["q_proj.weight", "v_proj.weight"]), True),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_trained_adapter_of_another_method_is_neither_a_crash_nor_dead(base: Path, tmp_path: Path, name: str) -> None:
    config, alive = METHODS[name]
    trained(get_peft_model(tiny_llama(0), config)).save_pretrained(tmp_path / "a")
    for load in (False, True):
        found = pipeline.check(base, tmp_path / "a", load=load, model=CPU)
        accused = [f.code for f in found.findings if f.status == "present" and f.certainty in ("certain", "very likely")]
        assert found.alive is (alive if load else None) and not accused, (load, found.reason, accused)


def test_the_same_kinds_untrained_are_not_called_alive(base: Path, tmp_path: Path) -> None:
    for name in ("IA3", "saved modules", "token rows"):
        get_peft_model(tiny_llama(0), METHODS[name][0]).eval().save_pretrained(tmp_path / name)
        assert pipeline.check(base, tmp_path / name, model=CPU).alive is not True, name


def test_a_loftq_adapter_is_not_dead_and_loads_with_the_base_that_was_saved_after_it(base: Path, tmp_path: Path) -> None:
    trained(get_peft_model(tiny_llama(0), lora())).save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}))
    found = pipeline.check(base, tmp_path / "a", load=False)
    assert found.alive is None and not [f for f in found.findings if f.status == "present"]
    assert found.integrity.files is not None and found.integrity.files.changes_base == ("init_lora_weights=loftq",)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="saved after LoftQ") as refused:
            pipeline.check(base, tmp_path / "a", model=CPU)
        assert refused.value.code == "adapter/unloadable"
    path.write_text(json.dumps(config))
    assert pipeline.check(base, tmp_path / "a", model=CPU).alive is True
