"""Base models, tokenizers and adapters: found, checked before they are opened, loaded, fingerprinted.

No pickle is opened and no remote code is run: weights are safetensors, the architecture is one that transformers ships.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from galvan import guards
from galvan.errors import ComparisonRefused, ModelError, ResourceError
from galvan.recipe import Lora, Model
from galvan.rundir import cannot_write, sha256_file
from galvan.text import shown

T = TypeVar("T")
BUNDLED = {"galvan/spark": "spark"}
_HUB_ID = re.compile(r"^(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}(?:@[\w./-]{1,128})?$")
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.model", "vocab.txt", "merges.txt", "*.jinja"]
_UNWANTED = ["consolidated*", "original/*", "onnx/*"]  # the same weights once more, in other formats
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MLX_WEIGHTS = "adapters.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """A model or adapter on this disk: `name` is what the user called it, `revision` the exact Hub commit where it has one."""

    name: str
    path: Path
    revision: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A choice made for the user, with its reason."""

    value: str
    reason: str


def locate(name: str, what: str = "model", offline: bool = False) -> Located:
    """Find a bundled model, a local folder, or a Hub repository (downloaded into the Hub's cache).

    Raises ModelError with what was looked for and where, ResourceError where the network or the disk gave out.
    """
    guards.require_floors("torch", "transformers")
    if name in BUNDLED:
        with as_file(files("galvan") / "assets" / BUNDLED[name]) as path:
            return Located(name, path)
    try:
        path = Path(name or "\0").expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError):  # too long a name, or the home of nobody
        is_folder = exists = False
    if is_folder:
        return _harmless(Located(name, path))
    if exists:
        raise ModelError(f"{what}/not-a-folder", f"{shown(name)} is a file; a {what} is a folder with its config and safetensors.")
    if not _HUB_ID.fullmatch(name) or name.startswith("galvan/"):
        known = f"; bundled: {', '.join(BUNDLED)}" if what == "model" else ""
        raise ModelError(f"{what}/missing", f"There is no {what} {shown(name)}: no such folder, and not a Hub id{known}.")
    return _from_hub(name, what, offline)


def _from_hub(name: str, what: str, offline: bool) -> Located:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            local_files_only=offline,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except GatedRepoError:
        raise ModelError(
            f"{what}/gated", f"{name} is gated: accept its terms on the Hub and log in with `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{what}/revision", f"{repository} has no revision `{shown(revision, 80)}` on the Hub.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{what}/missing", f"There is no {what} {name}: no such folder, and no such Hub repository that you may read."
        ) from None
    except LocalEntryNotFoundError as error:
        absent = f"{name} is neither a folder nor whole in the Hub's cache"
        if offline:
            raise ModelError(f"{what}/not-cached", f"{absent}, and --offline was asked for.") from None
        raise ResourceError(
            "network/hub", f"{absent}, and the Hub could not be reached: {_first_line(error.__cause__ or error)}"
        ) from None
    except HFValidationError as error:
        raise ModelError(
            f"{what}/missing", f"There is no {what} {name}: no such folder, and not a Hub id: {_first_line(error)}"
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"{what}/hub", f"The Hub did not give {name}: {shown(str(error).splitlines()[0], 200)}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise cannot_write(Path(error.filename or "the Hub's cache"), error) from None
        raise ResourceError("network/hub", f"The Hub could not be reached for {name}: {shown(str(error), 200)}") from None
    except Exception as error:  # httpx's own connection errors are not OSErrors
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2", "httpcore", "requests", "urllib3"}:
            raise
        raise ResourceError("network/hub", f"The Hub could not be reached for {name}: {shown(str(error), 200)}") from None
    commit = Path(folder).name
    return _harmless(Located(name, Path(folder), commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None))


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ModelError:
        return None


def _harmless(located: Located) -> Located:
    """The same, if its folder holds nothing that a library would follow to somewhere else; what is damaged is refused where it is read."""
    guards.require_plain_files(located.path, located.name)
    for index in sorted(located.path.glob("*.index.json")):
        guards.require_plain_names(index, located.name)
    config = _readable(lambda: read_config(located.path / "config.json")) or {}
    headers = _readable(lambda: [safetensors_header(path) for path in weight_files(located)]) or []
    guards.require_harmless_config(config, located.name)
    guards.require_plausible_shapes(config, [shape for header in headers for _, shape in header.values()], located.name)
    adapter = _readable(lambda: read_config(located.path / "adapter_config.json")) or {}
    guards.require_harmless_adapter(adapter, located.name)
    return located


def weight_files(located: Located, stem: str = "model") -> list[Path]:
    """The safetensors files of a model (or, with stem "adapter_model", of an adapter), each checked to be whole.

    Raises ModelError if there are none, if there are only pickles, or if one is damaged.
    """
    found = sorted(located.path.glob(f"{stem}*.safetensors"))
    if not found:
        pickles = sorted(p.name for p in located.path.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise ModelError(
                "model/pickle",
                f"{shown(located.name)} has its weights only as pickle ({shown(pickles[0])}), which can run code; where you trust it, load it with PEFT or transformers and call save_pretrained, which writes safetensors.",
            )
        if stem == "adapter_model" and (located.path / MLX_WEIGHTS).is_file():
            raise ModelError(
                "adapter/mlx",
                f"{shown(located.name)} is an adapter as mlx-lm saves it ({MLX_WEIGHTS}), which PEFT cannot read; "
                "`galvan check BASE ADAPTER --repair OUT` writes it to the folder OUT in PEFT's format.",
            )
        raise ModelError("model/no-weights", f"{shown(located.name)} holds no {stem}*.safetensors in {shown(str(located.path))}.")
    for path in found:
        safetensors_header(path)
    return found


def safetensors_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name to (dtype, shape), from the header alone; ModelError if the file is truncated or damaged.

    The size that the header promises is compared with the size of the file, and nothing else is read.
    """
    damaged = f"{shown(str(path))}: not a whole safetensors file"
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = path.stat().st_size
            if length < 2 or 8 + length > size or length > 100_000_000:
                raise ModelError(
                    "model/corrupt", f"{damaged}: its header claims {length:,} bytes of {size:,}; download or save it again."
                )
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        result = {name: (str(entry["dtype"]), tuple(int(n) for n in entry["shape"])) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise ModelError("model/corrupt", f"{damaged}: its header cannot be read; download or save it again.") from None
    except OSError as error:
        raise ModelError("model/unreadable", f"{shown(str(path))}: cannot be read: {error.strerror}.") from None
    if 8 + length + end != size:
        raise ModelError(
            "model/corrupt", f"{damaged}: {8 + length + end:,} bytes expected, {size:,} found; download or save it again."
        )
    _require_sound_to_safetensors(path, damaged)
    return result


def _require_sound_to_safetensors(path: Path, damaged: str) -> None:
    """Shapes that do not fit their bytes, holes and overlaps, by the library that will read them; it reads no more than the header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ModelError("model/corrupt", f"{damaged}: {_first_line(error)}; download or save it again.") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprints:
    """What was loaded, exactly: sha256 over weight files, configs, tokenizer files and chat template; None where there is none."""

    weights: str
    config: str | None
    tokenizer: str | None
    chat_template: str | None


def fingerprints(located: Located) -> Fingerprints:
    """Hash a model folder. The weights' hash is over (name, sha256) of each file in order of name."""
    weights = hashlib.sha256()
    for path in weight_files(located):
        weights.update(f"{path.name} {sha256_file(path)}\n".encode())
    config = _digest(located.path, ("config.json", "generation_config.json"))
    digest = _digest(
        located.path, ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    )  # fmt: skip
    template: str | None = None
    if (located.path / "chat_template.jinja").is_file():
        template = (located.path / "chat_template.jinja").read_text(encoding="utf-8", errors="backslashreplace")
    elif (located.path / "tokenizer_config.json").is_file():
        template = read_config(located.path / "tokenizer_config.json").get("chat_template")
    return Fingerprints(
        weights.hexdigest(), config, digest, hashlib.sha256(str(template).encode()).hexdigest() if template else None
    )


def _digest(folder: Path, names: Sequence[str]) -> str | None:
    """sha256 over (name, sha256) of those files that are there; None where none is."""
    present = [folder / name for name in names if (folder / name).is_file()]
    return hashlib.sha256("".join(f"{p.name} {sha256_file(p)}\n" for p in present).encode()).hexdigest() if present else None


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a model's or adapter's folder; ModelError if missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            "model/no-config", f"{shown(str(path.parent))} holds no {path.name}; give the folder that holds it."
        ) from None
    except (OSError, ValueError, RecursionError):
        raise ModelError("model/corrupt", f"{shown(str(path))}: not readable as JSON; download or save it again.") from None
    if not isinstance(value, dict):
        raise ModelError("model/corrupt", f"{shown(str(path))}: not a JSON object; download or save it again.")
    return value


@contextmanager
def quiet() -> Iterator[None]:
    """transformers, peft and their progress bars keep silent inside; what matters we say ourselves."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def load_tokenizer(located: Located) -> Any:
    """The fast tokenizer of a model folder; ModelError if it has none."""
    from transformers import AutoTokenizer

    if not any(
        (located.path / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    ):
        raise ModelError(
            "model/no-tokenizer",
            f"{shown(located.name)} has no tokenizer in its folder; save one there with tokenizer.save_pretrained.",
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(located.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            "model/tokenizer", f"{shown(located.name)}: its tokenizer cannot be loaded: {_first_line(error)}"
        ) from None
    if not tokenizer.is_fast:
        raise ModelError(
            "model/tokenizer", f"{shown(located.name)} has only a slow tokenizer; galvan needs the fast one (tokenizer.json)."
        )
    return tokenizer


def choose_device(asked: str) -> Choice:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise ModelError("model/device", "model.device is cuda, but this PyTorch sees no GPU; use cpu or auto.")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise ModelError("model/device", "model.device is mps, but this PyTorch has none; use cpu or auto.")
    if asked != "auto":
        return Choice(asked, "asked for in the recipe")
    if torch.cuda.is_available():
        return Choice("cuda", f"a GPU is there: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Choice("mps", "Apple's GPU is there")
    return Choice("cpu", "no GPU is there")


def choose_dtype(asked: str, device: str) -> Choice:
    import torch

    if asked != "auto":
        return Choice(asked, "asked for in the recipe")
    if device == "cuda" and torch.cuda.is_bf16_supported():
        return Choice("bfloat16", "the GPU computes in bfloat16")
    return Choice("float32", "exact, and faster than bfloat16 on most CPUs" if device == "cpu" else "the device has no bfloat16")


def load_base(located: Located, settings: Model, device: Choice | None = None, dtype: Choice | None = None) -> Any:
    """A fresh causal language model that no adapter has touched, in evaluation mode.

    Raises ModelError if weights are missing, damaged, initialised at random because the file lacks them, or need remote code.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = device or choose_device(settings.device)
    dtype = dtype or choose_dtype(settings.dtype, device.value)
    config = read_config(located.path / "config.json")
    if (located.path / "adapter_config.json").is_file():  # transformers would put that adapter into the base without a word
        raise ComparisonRefused(
            "A01",
            f"{shown(located.name)} comes with an adapter already in it, for an adapter_config.json lies in its folder; move the adapter's files to a folder of their own.",
        )
    _harmless(located)
    try:
        with quiet():
            AutoConfig.from_pretrained(located.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        if "auto_map" in config:
            raise ModelError(
                "model/remote-code", f"{shown(located.name)} needs code from its own repository to run, and galvan runs none."
            ) from None
        raise ModelError(
            "model/config", f"{shown(located.name)}: transformers cannot read its config.json: {_first_line(error)}"
        ) from None
    weight_files(located)
    arguments: dict[str, Any] = {}
    if settings.quantization == "nf4":
        arguments = {"quantization_config": _nf4(dtype.value), "device_map": {"": device.value}}
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                located.path, dtype=getattr(torch, dtype.value), use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True, **arguments,
            )  # fmt: skip
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "memory/gpu", f"{shown(located.name)} does not fit into the GPU's memory: {_first_line(error)}"
        ) from None
    except MemoryError:
        raise ResourceError("memory/full", f"{shown(located.name)} does not fit into this machine's memory.") from None
    except Exception as error:
        raise ModelError("model/unloadable", f"{shown(located.name)}: transformers cannot load it: {_first_line(error)}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            "model/missing-weights",
            f"{shown(located.name)} lacks {len(missing)} weights (first: {shown(missing[0])}), which would be random; get the whole model.",
        )
    if info.get("mismatched_keys"):
        raise ModelError(
            "model/shape",
            f"{shown(located.name)}: weights do not fit its config.json: {shown(str(sorted(info['mismatched_keys'])[0]), 200)}",
        )
    if not arguments:
        model.to(device.value)
    for module in model.modules():
        # On some CPUs bitsandbytes repacks weights in the first evaluation pass, to compute in bfloat16, and PEFT unpacks them again when it
        # wraps them: the base's likelihoods would be other numbers than those of the same base under an adapter that is switched off.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def _nf4(compute_dtype: str) -> Any:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "model/no-bitsandbytes",
            "model.quantization is nf4, which needs bitsandbytes: pip install 'galvan[qlora]', or set it to none.",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute_dtype),
    )


def initialize(config: Path, seed: int) -> Any:
    """A model with random weights from a bare config.json (or the folder that holds it), for full training from nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = config if config.is_dir() else config.parent
    read_config(folder / "config.json")
    try:
        with quiet():
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            )
    except Exception as error:
        raise ModelError(
            "model/config", f"{shown(str(config))}: transformers cannot make a model of it: {_first_line(error)}"
        ) from None


def linear_names(model: Any) -> list[str]:
    """Last names of the linear layers, the head left out: what `targets` can name."""
    import torch

    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"]
    return sorted({n.rsplit(".", 1)[-1] for n, m in linear if m is not head})


def add_lora(model: Any, lora: Lora, base_name: str, revision: str | None, seed: int) -> Any:
    """Wrap `model`, in place as PEFT does, with a fresh LoRA (B = 0). ModelError if a target matches no layer."""
    import torch
    from peft import LoraConfig, get_peft_model

    if isinstance(lora.targets, list):
        last = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"]
        dead = [t for t in lora.targets if not any(n == t or n.endswith("." + t) for n in last)]
        if dead or not lora.targets:
            name = shown(dead[0], 80) if dead else "(none)"
            raise ModelError(
                "training/target",
                f"training.lora.targets: `{name}` matches no linear layer of {shown(base_name)}; it has {', '.join(linear_names(model)) or 'none'}.",
            )
    targets = (
        linear_names(model) if lora.targets == "all-linear" and lora.layers is not None else lora.targets
    )  # PEFT takes no word there
    torch.manual_seed(seed)
    try:
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM",
            layers_to_transform=lora.layers, use_rslora=lora.rslora, use_dora=lora.dora, bias=lora.bias, modules_to_save=lora.save_modules or None,
            init_lora_weights=True if lora.start == "default" else lora.start, base_model_name_or_path=base_name, revision=revision,
        )  # fmt: skip
        with quiet():
            wrapped = get_peft_model(model, config)
    except (ValueError, RuntimeError) as error:
        raise ModelError("training/lora", f"training.lora does not fit {shown(base_name)}: {_first_line(error)}") from None
    written = wrapped.peft_config["default"]
    written.base_model_name_or_path = base_name  # PEFT writes the folder's path instead
    if isinstance(written.target_modules, set):
        written.target_modules = sorted(written.target_modules)  # a set would be saved in another order by each process
    return wrapped


def load_adapter(base: Any, adapter: Located, trainable: bool = False) -> Any:
    """Put a PEFT adapter into `base`, in place: after this, `base` is no longer the base.

    Unlike `PeftModel.from_pretrained` alone, keys that are missing or unexpected are an error (B01) and not a warning.
    """
    from peft import PeftConfig, PeftModelForCausalLM

    weight_files(adapter, "adapter_model")
    read_config(adapter.path / "adapter_config.json")
    _harmless(adapter)
    try:
        with quiet():
            config = PeftConfig.from_pretrained(adapter.path)
            config.inference_mode = not trainable
            model = PeftModelForCausalLM(base, config)
            result = model.load_adapter(str(adapter.path), "default", is_trainable=trainable)
    except Exception as error:
        raise ModelError(
            "adapter/unloadable",
            f"{shown(adapter.name)}: PEFT cannot load it onto this base: {_first_line(error)}{_loftq(adapter)}",
        ) from None
    missing, unexpected = list(result.missing_keys), list(result.unexpected_keys)
    if (missing or unexpected) and not config.is_prompt_learning:  # PEFT reports a whole prompt as unexpected
        example = shown((unexpected or missing)[0], 120)
        raise ModelError(
            "B01",
            f"{shown(adapter.name)}: {len(missing)} adapter weights missing and {len(unexpected)} unexpected after loading (for example {example}); the names in the file do not fit this base.",
        )
    return model.eval()


def _loftq(adapter: Located) -> str:
    """What to do where PEFT fails to run LoftQ again, as its config makes it on every load."""
    if str(read_config(adapter.path / "adapter_config.json").get("init_lora_weights")).lower() != "loftq":
        return ""
    return (
        "; its init_lora_weights is loftq, so that PEFT quantises the base again, which needs a GPU: "
        "give the base that was saved after LoftQ, and set init_lora_weights to true in a copy of the adapter."
    )


def without_adapter(wrapped: Any, adapter: Located | None) -> Any | None:
    """The base that `wrapped` was made around, in place; None where unloading would not bring it back. `adapter` is its files, None for
    an adapter that has none.

    Trained biases, saved modules and embeddings stay in the base, and so does what a start such as PiSSA took out of its weights.
    """
    config = getattr(wrapped, "peft_config", {}).get("default")
    if not hasattr(wrapped.base_model, "unload") or config is None:
        return None
    plain = (
        getattr(config, "bias", "none") == "none"
        and not getattr(config, "modules_to_save", None)
        and not getattr(config, "trainable_token_indices", None)
        and getattr(config, "init_lora_weights", True) in (True, False, "gaussian")
        and all(
            "lora_" in name
            for path in (weight_files(adapter, "adapter_model") if adapter else ())
            for name in safetensors_header(path)
        )
    )
    return wrapped.unload() if plain else None


def save(model: Any, folder: Path, tokenizer: Any = None, start: Path | None = None) -> None:
    """Write a trained adapter, or a whole model with its `tokenizer`, as PEFT and transformers do; ResourceError if the disk refuses.

    `start`: the folder with the adapter as it was before training, where that took its start out of the base's weights (PiSSA, OLoRA): what
    is written is then a plain LoRA of twice the rank, for the untouched base.
    """
    from safetensors import SafetensorError

    # PEFT would otherwise ask the Hub, by the base's name, whether its vocabulary has changed.
    is_adapter = hasattr(model, "peft_config")
    arguments: dict[str, Any] = {"save_embedding_layers": False} if is_adapter else {}
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not is_adapter)
    if start is not None:
        arguments["path_initial_model_for_weight_conversion"] = str(start)
    try:
        with quiet():
            model.save_pretrained(folder, **arguments)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        for path in folder.iterdir():
            path.chmod(0o644)
    except OSError as error:
        raise cannot_write(folder, error, n_bytes) from error
    except SafetensorError as error:
        raise disk_error(folder, error, n_bytes) from error


def disk_error(path: Path, error: Exception, n_bytes: int) -> ResourceError:
    """What safetensors says when the disk refuses; its errors carry the system's number in words only."""
    full = "os error 28" in str(error) or "No space left" in str(error)
    return cannot_write(path, OSError(errno.ENOSPC if full else errno.EIO, str(error)), n_bytes)


def load_tuned(base: Located, tuned: Located, settings: Model, device: Choice | None = None, dtype: Choice | None = None) -> Any:
    """The tuned arm from fresh files: the adapter on a base of its own, or the whole model where `tuned` is one."""
    if not (tuned.path / "adapter_config.json").is_file():
        return load_base(tuned, settings, device, dtype)
    return load_adapter(load_base(base, settings, device, dtype), tuned)


def _first_line(error: BaseException) -> str:
    """The first line, with the next where the first only announces it."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return shown(f"{first} {rest[0].strip()}" if rest and first.rstrip().endswith(":") else first, 240)
