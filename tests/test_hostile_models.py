"""Hostile repositories: whatever a model's or an adapter's folder holds, no code of it runs, nothing is asked of a network, nothing outside is read,
and the refusal has a code. Every one of them would leave a canary."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from galvan import models
from galvan.errors import EXIT_MODEL, GalvanError
from galvan.measure.integrity import check
from galvan.models import Choice, Located, locate
from galvan.recipe import Model
from models_for_tests import save_adapter, save_base, tiny_mistral

CPU = (Choice("cpu", ""), Choice("float32", ""))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter on it, as they should be."""
    folder = tmp_path_factory.mktemp("sound")
    save_base(folder / "base", tiny_mistral())
    save_adapter(folder / "adapter", tiny_mistral())
    return folder


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy to spoil, in a folder that Python imports from; nothing may connect, and no canary may be there at the end."""
    place = Path(shutil.copytree(sound, tmp_path / "place"))
    code = f"open({str(tmp_path / 'canary')!r}, 'w')\n"
    for name in ("evil", "modeling_evil", "configuration_evil", "tokenization_evil", "sitecustomize"):
        for folder in (place, place / "base", place / "adapter"):
            (folder / f"{name}.py").write_text(code)

    def forbidden(*arguments: object, **named: object) -> None:
        raise AssertionError(f"a connection was asked for: {arguments}")

    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, forbidden)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(place)
    yield place
    assert not (tmp_path / "canary").exists()


class Evil:
    """Unpickling it leaves the canary."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.mkdir, (str(self._canary),)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_pickles(folder: Path, stem: str, canary: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    for suffix in ("bin", "pt", "pth", "ckpt", "pkl"):
        (folder / f"{stem}.{suffix}").write_bytes(pickle.dumps(Evil(canary)))


def linked_out(folder: Path, name: str) -> None:
    target = folder.parent / "elsewhere"
    shutil.move(folder / name, target)
    (folder / name).symlink_to(target)


def header(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of a safetensors file and leave its data."""
    content = (folder / name).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    change(entries)
    new = json.dumps(entries).encode()
    (folder / name).write_bytes(len(new).to_bytes(8, "little") + new + content[end:])


def one_shape(shape: list[int]) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries[min(name for name in entries if name != "__metadata__")].update(shape=shape)


BASES: dict[str, tuple[Callable[[Path, Path], object], set[str]]] = {
    "weights only as pickles": (lambda f, c: only_pickles(f, "pytorch_model", c), {"model/pickle"}),
    "an architecture of its own code": (lambda f, c: edit(f / "config.json", model_type="evil", auto_map={"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}), {"model/remote-code"}),
    "code of another repository": (lambda f, c: edit(f / "config.json", model_type="evil", auto_map={"AutoConfig": "someone/evil--configuration_evil.C"}), {"model/remote-code"}),
    "trust asked for in the config": (lambda f, c: edit(f / "config.json", model_type="evil", trust_remote_code=True, auto_map={"AutoConfig": "configuration_evil.C"}), {"model/remote-code"}),
    "attention from a hub": (lambda f, c: edit(f / "config.json", attn_implementation="someone/evil-kernel"), {"model/kernel"}),
    "attention from a hub, hidden": (lambda f, c: edit(f / "config.json", _attn_implementation_internal="paged|someone/evil-kernel"), {"model/kernel"}),
    "attention from a hub, for a part": (lambda f, c: edit(f / "config.json", text_config={"_attn_implementation": {"": "someone/evil@main:f"}}), {"model/kernel"}),
    "experts from a hub": (lambda f, c: edit(f / "config.json", experts_implementation="someone/evil"), {"model/kernel"}),
    "attention of a module": (lambda f, c: edit(f / "config.json", attn_implementation="evil"), {"model/kernel"}),
    "a link to weights elsewhere": (lambda f, c: linked_out(f, "model.safetensors"), {"model/link"}),
    "a link to a config elsewhere": (lambda f, c: linked_out(f, "config.json"), {"model/link"}),
    "a link to nothing": (lambda f, c: (f / "notes.json").symlink_to("/nonexistent/notes.json"), {"model/link"}),
    "a pipe in place of a config": (lambda f, c: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")), {"model/not-a-file"}),
    "a config of gigabytes": (lambda f, c: os.truncate(f / "config.json", 3 << 30), {"model/too-large"}),
    "shards in another folder": (lambda f, c: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere/model.safetensors"}}'), {"model/path"}),
    "shards at the root": (lambda f, c: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/etc/passwd"}}'), {"model/path"}),
    "a vocabulary of a trillion": (lambda f, c: edit(f / "config.json", vocab_size=10**12), {"model/shape"}),
    "a width of a billion": (lambda f, c: edit(f / "config.json", hidden_size=10**9), {"model/shape"}),
    "ten million layers": (lambda f, c: edit(f / "config.json", num_hidden_layers=10**7), {"model/shape"}),
    "a tensor larger than the file": (lambda f, c: header(f, "model.safetensors", one_shape([2**40, 2**20])), {"model/unloadable", "model/corrupt", "model/shape"}),
    "a tensor of negative size": (lambda f, c: header(f, "model.safetensors", one_shape([-1, 32])), {"model/unloadable", "model/corrupt"}),
    "weights of another name": (lambda f, c: (shutil.copy(f / "model.safetensors", f / "other.safetensors"), edit(f / "config.json", transformers_weights="other.safetensors")), {"model/path"}),
    "weights of another name, a pickle": (lambda f, c: ((f / "other.bin").write_bytes(pickle.dumps(Evil(c))), edit(f / "config.json", transformers_weights="other.bin")), {"model/path"}),
    "a link among further templates": (lambda f, c: ((f / "additional_chat_templates").mkdir(), (f / "additional_chat_templates" / "a.jinja").symlink_to("/etc/hostname")), {"model/link"}),
    "a chat template of gigabytes": (lambda f, c: ((f / "chat_template.jinja").touch(), os.truncate(f / "chat_template.jinja", 3 << 30)), {"model/too-large"}),
    "a billion labels": (lambda f, c: edit(f / "config.json", num_labels=10**9), {"model/shape"}),
    "a billion experts": (lambda f, c: edit(f / "config.json", model_type="mixtral", num_local_experts=10**9), {"model/shape"}),
    "a number of four thousand digits": (lambda f, c: edit(f / "config.json", vocab_size=10**4000), {"model/shape"}),
    "a header bomb": (lambda f, c: (f / "model.safetensors").write_bytes((300_000).to_bytes(8, "little") + b"[" * 300_000), {"model/corrupt"}),
    "a config bomb": (lambda f, c: (f / "config.json").write_text("[" * 200_000), {"model/corrupt"}),
}  # fmt: skip

ADAPTERS: dict[str, tuple[Callable[[Path, Path], object], set[str]]] = {
    "weights only as pickles": (lambda f, c: only_pickles(f, "adapter_model", c), {"model/pickle"}),
    "a module to import": (lambda f, c: edit(f / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil"), {"adapter/code"}),
    "a rank of a billion": (lambda f, c: edit(f / "adapter_config.json", r=10**9), {"adapter/shape"}),
    "a rank of a billion for one layer": (lambda f, c: edit(f / "adapter_config.json", rank_pattern={"q_proj": 10**9}), {"adapter/shape"}),
    "a prompt of a billion tokens": (lambda f, c: edit(f / "adapter_config.json", peft_type="PROMPT_TUNING", num_virtual_tokens=10**9), {"adapter/shape"}),
    "vectors beyond memory": (lambda f, c: edit(f / "adapter_config.json", peft_type="VBLORA", num_vectors=10**8, vector_length=8), {"adapter/shape"}),
    "an alpha that no float holds": (lambda f, c: edit(f / "adapter_config.json", lora_alpha=10**400), {"adapter/shape"}),
    "a start that never ends": (lambda f, c: edit(f / "adapter_config.json", init_lora_weights="pissa_niter_100000000"), {"adapter/shape"}),
    "a shadow model of a hub": (lambda f, c: edit(f / "adapter_config.json", peft_type="SHADOW", shadow_model="someone/evil"), {"adapter/path"}),
    "experts of a hub": (lambda f, c: edit(f / "adapter_config.json", peft_type="XLORA", adapters={"0": "someone/evil"}), {"adapter/path"}),
    "a prompt in a pickle elsewhere": (lambda f, c: edit(f / "adapter_config.json", peft_type="MULTITASK_PROMPT_TUNING", prompt_tuning_init_state_dict_path="../evil.bin"), {"adapter/path"}),
    "layers repeated a million times": (lambda f, c: edit(f / "adapter_config.json", layer_replication=[[0, 2]] * 10**6), {"adapter/shape"}),
    "a link to weights elsewhere": (lambda f, c: linked_out(f, "adapter_model.safetensors"), {"model/link"}),
    "a tensor larger than the file": (lambda f, c: header(f, "adapter_model.safetensors", one_shape([2**40, 2**20])), {"model/corrupt", "adapter/unloadable"}),
    "a pipe in place of a config": (lambda f, c: ((f / "adapter_config.json").unlink(), os.mkfifo(f / "adapter_config.json")), {"model/not-a-file"}),
}  # fmt: skip


def load_all(folder: Path) -> None:
    located = locate(str(folder))
    models.load_base(located, Model(), *CPU)
    models.load_tokenizer(located)


@pytest.mark.parametrize("kind", BASES)
def test_a_hostile_base_is_refused_with_a_code_and_runs_nothing(kind: str, place: Path, tmp_path: Path) -> None:
    spoil, codes = BASES[kind]
    spoil(place / "base", tmp_path / "canary")
    with pytest.raises(GalvanError) as refused:
        load_all(place / "base")
    assert refused.value.code in codes and refused.value.exit_code == EXIT_MODEL, refused.value
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_hostile_adapter_is_refused_with_a_code_and_runs_nothing(kind: str, place: Path, tmp_path: Path) -> None:
    spoil, codes = ADAPTERS[kind]
    spoil(place / "adapter", tmp_path / "canary")
    with pytest.raises(GalvanError) as refused:
        check(locate(str(place / "base")), locate(str(place / "adapter"), "adapter"), Model(device="cpu"))
    assert refused.value.code in codes and refused.value.exit_code == EXIT_MODEL, refused.value
    assert len(str(refused.value)) < 600


HARMLESS: dict[str, Callable[[Path], object]] = {
    "code beside an architecture that transformers has": lambda f: edit(f / "config.json", auto_map={"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}),
    "code beside the tokenizer": lambda f: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T", None]}),
    "unknown keys with code in them": lambda f: edit(f / "config.json", on_load="__import__('evil')", __reduce__=["evil"], pre_init="!!python/object/apply:evil.f []"),
    "attention that transformers has": lambda f: edit(f / "config.json", attn_implementation="eager"),
    "pickles beside safetensors": lambda f: (f / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(f.parents[1] / "canary"))),
    "a template that reaches for Python": lambda f: (f / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_nobody_follows_is_left_alone_and_runs_nothing(kind: str, place: Path) -> None:
    HARMLESS[kind](place / "base")
    load_all(place / "base")


def test_the_canary_sings_where_code_does_run(tmp_path: Path) -> None:
    """The watch of this file would see what it watches for."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_the_hub_s_own_links_into_its_cache_are_followed(sound: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(sound / "base", blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    load_all(snapshot)


def test_a_sound_adapter_of_another_dtype_passes_the_guards(place: Path) -> None:
    path = place / "adapter" / "adapter_model.safetensors"
    save_file({name: array.astype("float16") for name, array in load_file(path).items()}, path)
    located = locate(str(place / "adapter"), "adapter")
    assert located == Located(str(place / "adapter"), place / "adapter")
