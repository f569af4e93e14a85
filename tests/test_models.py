"""Models are found, checked before they are opened, loaded as a base that saw no adapter, and refused in one sentence."""

from __future__ import annotations

import json
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from galvan import models
from galvan.errors import EXIT_MODEL, EXIT_RESOURCES, GalvanError, ModelError, ResourceError
from galvan.models import Choice, Located, locate
from galvan.recipe import Lora, Model
from hub_server import COMMIT, Hub, serving
from models_for_tests import byte_tokenizer, save_adapter, save_base, tiny_gpt2, tiny_llama, tiny_mistral

CPU = (Choice("cpu", ""), Choice("float32", ""))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "tiny", tiny_mistral())


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def load(folder: Path, settings: Model | None = None) -> Any:
    return models.load_base(Located("NAME", folder), settings or Model(), *CPU)


def refused(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(GalvanError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (EXIT_RESOURCES if isinstance(caught.value, ResourceError) else EXIT_MODEL)
    return caught.value.code, str(caught.value)


def edit_config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(config))


# ---- finding ----


def test_the_bundled_base_and_a_folder_are_found(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spark = locate("galvan/spark")
    assert spark.name == "galvan/spark" and spark.revision is None and (spark.path / "model.safetensors").is_file()
    assert locate(str(base)) == Located(str(base), base)
    monkeypatch.chdir(base.parent)
    assert locate("./tiny").path == locate("tiny").path == Path("tiny")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("./none", "missing", "There is no model ./none: no such folder, and not a Hub id; bundled: galvan/spark."),
        ("galvan/sprak", "missing", "There is no model galvan/sprak: no such folder, and not a Hub id; bundled: galvan/spark."),
        ("a/b/c", "missing", "There is no model a/b/c: no such folder, and not a Hub id; bundled: galvan/spark."),
        ("", "missing", "There is no model : no such folder, and not a Hub id; bundled: galvan/spark."),
        (
            "\x1b[31m\u202e",
            "missing",
            "There is no model \\u001b[31m\\u202e: no such folder, and not a Hub id; bundled: galvan/spark.",
        ),
        ("a\0b", "missing", "There is no model a\\u0000b: no such folder, and not a Hub id; bundled: galvan/spark."),
        (
            "~nobody-of-this-name/x",
            "missing",
            "There is no model ~nobody-of-this-name/x: no such folder, and not a Hub id; bundled: galvan/spark.",
        ),
        ("x" * 5000, "missing", f"There is no model {'x' * 5000}: no such folder, and not a Hub id; bundled: galvan/spark."),
        ("file", "not-a-folder", "file is a file; a model is a folder with its config and safetensors."),
    ],
)
def test_what_is_no_model_is_refused_by_name(
    name: str, code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert refused(locate, name) == (f"model/{code}", message)


def test_an_adapter_is_called_an_adapter(tmp_path: Path) -> None:
    name = str(tmp_path / "none")
    assert refused(locate, name, "adapter") == ("adapter/missing", f"There is no adapter {name}: no such folder, and not a Hub id.")


# ---- the Hub ----


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub-shaped server, with an empty cache of its own, and no waiting between attempts."""
    remote = Path(shutil.copytree(base, tmp_path / "remote"))
    (remote / "pytorch_model.bin").write_bytes(b"a pickle")
    (remote / "consolidated.safetensors").write_bytes(b"the weights again")
    (remote / "modeling.py").write_text("raise SystemExit")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with serving(Hub({"someone/tiny": remote})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield running


def test_a_hub_model_is_downloaded_without_pickles_or_code_and_its_commit_is_recorded(hub: Hub) -> None:
    found = locate("someone/tiny")
    assert (found.name, found.revision) == ("someone/tiny", COMMIT)
    held = sorted(path.name for path in found.path.iterdir())
    assert "model.safetensors" in held and "tokenizer.json" in held and "config.json" in held
    assert not {"pytorch_model.bin", "consolidated.safetensors", "modeling.py"} & set(held)
    assert not any(name in request for request in hub.requests for name in ("pytorch_model", "consolidated", "modeling.py"))
    assert load(found.path).config.model_type == "mistral"


def test_a_named_revision_is_asked_for_and_its_commit_recorded(hub: Hub) -> None:
    assert locate("someone/tiny@v1.0").revision == COMMIT
    assert any("/revision/v1.0" in request for request in hub.requests)
    assert locate(f"someone/tiny@{COMMIT}").revision == COMMIT


def test_a_cached_model_is_found_offline_and_when_the_hub_is_down(hub: Hub) -> None:
    first = locate("someone/tiny")
    hub.requests.clear()
    assert locate("someone/tiny", offline=True) == first
    assert hub.requests == []
    hub.broken = True
    assert locate("someone/tiny") == first


def test_offline_by_environment_asks_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(locate, "someone/tiny")[0] == "model/not-cached"
    assert hub.requests == []


def test_each_refusal_of_the_hub_has_its_sentence(hub: Hub) -> None:
    hub.gated.add("meta/secret")
    sentences = {
        "someone/none": (
            "model/missing",
            "There is no model someone/none: no such folder, and no such Hub repository that you may read.",
        ),
        "someone/tiny@v9": ("model/revision", "someone/tiny has no revision `v9` on the Hub."),
        "meta/secret": ("model/gated", "meta/secret is gated: accept its terms on the Hub and log in with `hf auth login`."),
    }
    for name, sentence in sentences.items():
        assert refused(locate, name) == sentence
    code, message = refused(locate, "some--one/tiny")
    assert code == "model/missing" and message.startswith("There is no model some--one/tiny: no such folder, and not a Hub id: ")


def test_offline_without_a_cached_copy_is_refused(hub: Hub) -> None:
    assert refused(locate, "someone/tiny", "model", True) == (
        "model/not-cached", "someone/tiny is neither a folder nor whole in the Hub's cache, and --offline was asked for.",
    )  # fmt: skip


def test_a_hub_that_fails_or_is_gone_is_a_matter_of_the_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.broken = True
    code, message = refused(locate, "someone/tiny")
    assert code == "network/hub"
    assert message.startswith(
        "someone/tiny is neither a folder nor whole in the Hub's cache, and the Hub could not be reached: Server error '500"
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        code, message = refused(locate, "someone/tiny")
    assert code == "network/hub" and "could not be reached: " in message


def test_a_download_that_breaks_off_leaves_no_half_model_and_the_next_one_succeeds(hub: Hub) -> None:
    hub.cut = True
    assert refused(locate, "someone/tiny")[0] == "network/hub"
    assert refused(locate, "someone/tiny", "model", True)[0] == "model/not-cached"
    hub.cut = False
    assert load(locate("someone/tiny").path).config.model_type == "mistral"


# ---- weights ----


def test_a_safetensors_header_gives_types_and_shapes(base: Path) -> None:
    header = models.safetensors_header(base / "model.safetensors")
    assert header["model.embed_tokens.weight"] == ("F32", (300, 32))
    assert set(header) <= set(tiny_mistral().state_dict())


def test_a_file_truncated_anywhere_is_corrupt(base: Path, tmp_path: Path) -> None:
    content, path = (base / "model.safetensors").read_bytes(), tmp_path / "model.safetensors"
    header = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(1)
    for length in {
        0,
        1,
        7,
        8,
        9,
        header - 1,
        header,
        header + 1,
        len(content) - 1,
        *(rng.randrange(len(content)) for _ in range(60)),
    }:
        path.write_bytes(content[:length])
        code, message = refused(models.safetensors_header, path)
        assert code == "model/corrupt" and message.startswith(f"{path}: not a whole safetensors file: "), length
    path.write_bytes(content + b"x")
    assert refused(models.safetensors_header, path)[0] == "model/corrupt"


def test_a_flipped_bit_of_the_header_is_refused_or_changes_nothing_that_is_read(base: Path, tmp_path: Path) -> None:
    """A flip in a tensor's name or type leaves a readable header; loading refuses it (next test). None crashes."""
    content, path = bytearray((base / "model.safetensors").read_bytes()), tmp_path / "model.safetensors"
    length = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(2)
    for _ in range(400):
        place, bit = rng.randrange(length), 1 << rng.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        try:
            models.safetensors_header(path)
        except ModelError as error:
            assert error.code == "model/corrupt"


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, ' + b"9" * 5000 + b"]}}",
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}',
        b'{"a": 5}',
        b"[]",
        b"5",
        b"\xff\xfe",
        b"{",
    ],
    ids=lambda header: header[:12].decode("latin-1"),
)
def test_a_header_bomb_is_corrupt(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert refused(models.safetensors_header, path)[0] == "model/corrupt"


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write((200_000_000).to_bytes(8, "little"))
        stream.truncate(300_000_000)  # a hole, no disk is used
    message = (
        f"{path}: not a whole safetensors file: its header claims 200,000,000 bytes of 300,000,000; download or save it again."
    )
    assert refused(models.safetensors_header, path) == ("model/corrupt", message)


def test_renamed_and_retyped_weights_are_refused_when_loaded(copy: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content.replace(b"model.norm.weight", b"model.nerm.weight"))
    assert refused(load, copy) == (
        "model/missing-weights", "NAME lacks 1 weights (first: model.norm.weight), which would be random; get the whole model.",
    )  # fmt: skip
    (copy / "model.safetensors").write_bytes(content.replace(b'"F32"', b'"F31"'))
    assert refused(load, copy)[0] == "model/corrupt"


def test_weights_of_another_size_than_the_config_are_refused(copy: Path) -> None:
    edit_config(copy, hidden_size=48)
    code, message = refused(load, copy)
    assert code in {"model/shape", "model/unloadable"} and message.startswith("NAME: ")


def test_weights_only_as_pickle_are_refused_and_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    said = "NAME has its weights only as pickle (pytorch_model.bin), which can run code; where you trust it, load it with PEFT or transformers and call save_pretrained, which writes safetensors."
    assert refused(load, copy) == ("model/pickle", said)
    (copy / "pytorch_model.bin").unlink()
    assert refused(load, copy) == ("model/no-weights", f"NAME holds no model*.safetensors in {copy}.")


def test_a_missing_shard_is_refused(copy: Path) -> None:
    tiny_mistral().save_pretrained(copy, max_shard_size="50KB")
    (copy / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 1 and load(copy) is not None
    shards[-1].unlink()
    assert refused(load, copy)[0] in {"model/missing-weights", "model/unloadable", "model/no-weights"}


# ---- config and code ----


def test_a_missing_or_damaged_config_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text("[1]")
    assert refused(load, copy) == ("model/corrupt", f"{copy / 'config.json'}: not a JSON object; download or save it again.")
    for damage in (b"{", b"\xff", b"[" * 100_000):
        (copy / "config.json").write_bytes(damage)
        assert refused(load, copy) == ("model/corrupt", f"{copy / 'config.json'}: not readable as JSON; download or save it again.")
    (copy / "config.json").write_text('{"model_type": "no-such-model"}')
    assert refused(load, copy)[0] == "model/config"
    (copy / "config.json").unlink()
    assert refused(load, copy) == ("model/no-config", f"{copy} holds no config.json; give the folder that holds it.")


def plant_code(folder: Path) -> Path:
    """A module that leaves a trace when it is imported, in every place where transformers looks for one."""
    canary = folder / "canary"
    for name in ("configuration_x", "modeling_x", "tokenization_x", "generate"):
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\nclass X: ...\n")
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "generate.py", folder / "custom_generate" / "generate.py")
    return canary


def test_a_model_with_its_own_code_is_refused_and_the_code_is_not_run(copy: Path) -> None:
    canary = plant_code(copy)
    edit_config(copy, model_type="x", auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"})
    assert refused(load, copy) == ("model/remote-code", "NAME needs code from its own repository to run, and galvan runs none.")
    assert not canary.exists()


def test_code_beside_a_known_architecture_is_not_run(copy: Path) -> None:
    canary = plant_code(copy)
    edit_config(copy, auto_map={"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"})
    edit_config(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    assert type(load(copy)).__name__ == "MistralForCausalLM"
    assert models.load_tokenizer(Located("NAME", copy)).is_fast
    assert not canary.exists()


def test_a_tokenizer_with_its_own_code_is_refused_and_the_code_is_not_run(copy: Path) -> None:
    canary = plant_code(copy)
    edit_config(copy, model_type="x", auto_map={"AutoConfig": "configuration_x.X"})
    edit_config(copy, "tokenizer_config.json", tokenizer_class="X", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    try:
        models.load_tokenizer(Located("NAME", copy))
    except ModelError as error:
        assert error.code == "model/tokenizer"
    assert not canary.exists()


def test_an_adapter_in_the_folder_of_a_base_is_refused(copy: Path) -> None:
    """transformers would load it without a word, and base and tuned would be one model (A01)."""
    save_adapter(copy, tiny_mistral())
    assert refused(load, copy) == (
        "A01", "NAME comes with an adapter already in it, for an adapter_config.json lies in its folder; move the adapter's files to a folder of their own.",
    )  # fmt: skip


# ---- tokenizer ----


def test_a_model_without_a_tokenizer_or_with_a_damaged_one_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    code, message = refused(models.load_tokenizer, Located("NAME", copy))
    assert code == "model/tokenizer" and message.startswith("NAME: its tokenizer cannot be loaded: ")
    (copy / "tokenizer.json").unlink()
    assert refused(models.load_tokenizer, Located("NAME", copy)) == (
        "model/no-tokenizer", "NAME has no tokenizer in its folder; save one there with tokenizer.save_pretrained.",
    )  # fmt: skip


def test_the_tokenizer_of_a_folder_is_the_one_that_was_saved(base: Path) -> None:
    text = "It was on a dreary night — of November."
    assert models.load_tokenizer(Located("NAME", base))(text).input_ids == byte_tokenizer()(text).input_ids


# ---- device, dtype, fingerprints ----


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: bool = False, bf16: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(is_available=lambda: cuda, get_device_name=lambda: "H200", is_bf16_supported=lambda: bf16)
    )
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))


def test_the_device_is_chosen_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert models.choose_device("auto") == Choice("cpu", "no GPU is there")
    assert models.choose_device("cpu") == Choice("cpu", "asked for in the recipe")
    assert refused(models.choose_device, "cuda") == (
        "model/device",
        "model.device is cuda, but this PyTorch sees no GPU; use cpu or auto.",
    )
    assert refused(models.choose_device, "mps") == (
        "model/device",
        "model.device is mps, but this PyTorch has none; use cpu or auto.",
    )
    pretend(monkeypatch, mps=True)
    assert models.choose_device("auto") == Choice("mps", "Apple's GPU is there")
    pretend(monkeypatch, cuda=True, mps=True)
    assert models.choose_device("auto") == Choice("cuda", "a GPU is there: H200")


def test_the_dtype_is_chosen_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True, bf16=True)
    assert models.choose_dtype("auto", "cuda") == Choice("bfloat16", "the GPU computes in bfloat16")
    assert models.choose_dtype("auto", "cpu") == Choice("float32", "exact, and faster than bfloat16 on most CPUs")
    assert models.choose_dtype("float16", "cuda") == Choice("float16", "asked for in the recipe")
    pretend(monkeypatch, cuda=True)
    assert models.choose_dtype("auto", "cuda") == Choice("float32", "the device has no bfloat16")


def test_a_loaded_base_has_the_dtype_and_weights_asked_for_and_is_in_evaluation_mode(base: Path) -> None:
    loaded = models.load_base(Located("NAME", base), Model(dtype="bfloat16", device="cpu"))
    assert not loaded.training and {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    for name, weight in load(base).state_dict().items():
        assert torch.equal(weight, tiny_mistral().state_dict()[name]), name


def test_quantisation_without_bitsandbytes_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(load, base, Model(quantization="nf4")) == (
        "model/no-bitsandbytes", "model.quantization is nf4, which needs bitsandbytes: pip install 'galvan[qlora]', or set it to none.",
    )  # fmt: skip


def test_fingerprints_change_with_weights_tokenizer_and_template_each_for_itself(base: Path, copy: Path) -> None:
    first = models.fingerprints(Located("a", base))
    assert models.fingerprints(Located("b", copy)) == first and first.chat_template is None
    (copy / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    second = models.fingerprints(Located("b", copy))
    assert (second.weights, second.tokenizer) == (first.weights, first.tokenizer) and second.chat_template is not None
    tiny_mistral(seed=1).save_pretrained(copy)
    assert models.fingerprints(Located("b", copy)).weights != first.weights
    (copy / "tokenizer.json").write_text("{}")
    assert models.fingerprints(Located("b", copy)).tokenizer != first.tokenizer
    edit_config(copy, rms_norm_eps=0.5)
    assert models.fingerprints(Located("b", copy)).config != second.config


# ---- making and wrapping ----


@pytest.mark.parametrize("target", ["q_porj", "lm_heed", ""])
def test_a_target_that_matches_nothing_is_answered_with_the_names_there_are(target: str) -> None:
    code, message = refused(models.add_lora, tiny_llama(), Lora(targets=["q_proj", target]), "NAME", None, 1)
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert (code, message) == (
        "training/target",
        f"training.lora.targets: `{target}` matches no linear layer of NAME; it has {names}.",
    )


def test_the_linear_layers_of_gpt2_are_known_too() -> None:
    message = refused(models.add_lora, tiny_gpt2(), Lora(targets=["q_proj"]), "NAME", None, 1)[1]
    assert message.endswith("it has c_attn, c_fc, c_proj.")


def test_a_fresh_lora_changes_nothing_and_names_its_base_and_revision(base: Path) -> None:
    ids = torch.arange(20).unsqueeze(0)
    before = load(base)(ids).logits
    wrapped = models.add_lora(load(base), Lora(rank=4, alpha=8.0), "someone/tiny", COMMIT, 1).eval()
    assert torch.equal(wrapped(ids).logits, before)
    config = wrapped.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision, config.r, config.lora_alpha) == ("someone/tiny", COMMIT, 4, 8.0)


def test_a_bare_config_makes_a_model_that_depends_on_the_seed_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    first, again, other = (
        models.initialize(path, seed) for path, seed in [(tmp_path, 1), (tmp_path / "config.json", 1), (tmp_path, 2)]
    )
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same) and not torch.equal(first.lm_head.weight, other.lm_head.weight)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    assert refused(models.initialize, tmp_path, 1)[0] == "model/config"
    assert refused(models.initialize, tmp_path / "none" / "config.json", 1)[0] == "model/no-config"
