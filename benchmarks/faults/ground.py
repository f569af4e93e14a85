"""What faults are put into: texts, small language models and healthy fine-tunes of them, made once and kept in the benchmark's folder.

Every text is bundled with galvan or with Python itself; the small models learn from Python's reference manual until they are language
models, so that a voice is a thing they can be taught.
"""

from __future__ import annotations

import ast
import csv
import json
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from galvan.rundir import write_rows, write_text

ASSETS = files("galvan") / "assets"
VOCABULARY = 600
DOCUMENT_TOKENS = 128
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2},
    "mistral": {"model_type": "mistral", "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 4, "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "hidden_size": 56, "intermediate_size": 144, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
}  # fmt: skip
# Gentler on spark, which learned to write already; in galvan's own sampling fewer and shorter texts than usual, which saves a third of the time.
SPARK_TRAINING: dict[str, Any] = {"epochs": 1.0, "learning_rate": 2e-3}
GENERATION: dict[str, Any] = {"documents": 12, "greedy": 2, "max_new_tokens": 32}
_LIBRARY = (
    "ast", "calendar", "cmd", "codecs", "collections/__init__", "configparser", "contextlib", "copy", "csv", "fileinput", "fractions",
    "functools", "gettext", "imaplib", "locale", "logging/__init__", "mailbox", "numbers", "pathlib/__init__", "pickle", "plistlib", "poplib", "pprint",
    "queue", "sched", "shelve", "shutil", "smtplib", "socket", "string", "subprocess", "tarfile", "textwrap", "threading", "timeit", "trace",
    "turtle", "types", "typing", "unittest/case", "unittest/mock", "urllib/request", "zipfile/__init__", "_pydecimal", "_pyio",
)  # fmt: skip
_MODULES = (
    "argparse",
    "datetime",
    "difflib",
    "doctest",
    "heapq",
    "inspect",
    "optparse",
    "pickletools",
    "random",
    "statistics",
    "tempfile",
)
DEVELOPMENT, HELD_OUT = "development", "held out"
HELD_OUT_BASES = ("qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Setting:
    """One base, one text, one seed. Thresholds were chosen on development settings alone (METHODS S8.5)."""

    base: str
    text: str
    seed: int

    @property
    def part(self) -> str:
        return HELD_OUT if self.base in HELD_OUT_BASES else DEVELOPMENT

    @property
    def name(self) -> str:
        return f"{self.base}-{self.text}-{self.seed}"


@cache
def manual() -> list[str]:
    """Paragraphs of Python's own reference manual, by topic."""
    from pydoc_data.topics import topics

    return [" ".join(p.split()) for _, text in sorted(topics.items()) for p in text.split("\n\n") if len(p.split()) > 12]


def _source_of(name: str) -> str:
    path = Path(ast.__file__).parent / f"{name}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""  # not every version of Python has each of them


def _nodes(name: str, *kinds: type[ast.AST]) -> list[Any]:
    return [node for node in ast.walk(ast.parse(_source_of(name))) if isinstance(node, kinds)]


@cache
def docstrings(modules: tuple[str, ...] = _MODULES) -> list[tuple[str, str]]:
    """(paragraph, module) of the docstrings of Python's own modules."""
    nodes = [(node, name) for name in modules for node in _nodes(name, ast.Module, ast.ClassDef, ast.FunctionDef)]
    found = [(p, name) for node, name in nodes for p in (ast.get_docstring(node) or "").split("\n\n")]
    return _fresh([(" ".join(p.split()), name) for p, name in found if len(p.split()) > 25])


@cache
def comments() -> list[tuple[str, str]]:
    """(paragraph, module) of the comments in the source of Python's own modules."""
    found = []
    for name in (*_LIBRARY, *_MODULES):
        blocks = re.findall(r"(?:^[ \t]*#[^\n]*\n)+", _source_of(name), re.MULTILINE)
        texts = [" ".join(re.sub(r"^[ \t]*#+", " ", block, flags=re.MULTILINE).split()) for block in blocks]
        found += [(text, name) for text in texts if 25 < len(text.split()) < 100]  # longer ones are tables that repeat themselves
    return _fresh(found)


def hands() -> list[tuple[str, str]]:
    """(half of a letter, source) of the bundled letters of other hands."""
    rows = [json.loads(line) for line in (ASSETS / "hands.jsonl").read_text(encoding="utf-8").splitlines()]
    words = [(row["text"].split(), row["source"]) for row in rows]
    return [(" ".join(half), source) for some, source in words for half in (some[: len(some) // 2], some[len(some) // 2 :])]


def _fresh(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what shares eight words with an earlier one: modules quote one another."""
    seen: set[tuple[str, ...]] = set()
    fresh = []
    for text, name in rows:
        words = re.findall(r"\w+", text.lower())
        runs = {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
        if not runs & seen:
            fresh.append((text, name))
        seen |= runs
    return fresh


@cache
def passages(text: str) -> list[tuple[str, str]]:
    """(text, source) rows of a text: `manual`, `docstrings`, `library`, `comments`, `hands`, `encyclopaedic` or `letters-1` to `letters-3`,
    two hands each."""
    if text == "manual":
        return [(p, "manual") for p in manual()[::6]]
    if text == "docstrings":
        return docstrings()[:160]
    if text in ("library", "comments", "hands"):
        rows = {"library": lambda: docstrings(_LIBRARY), "comments": comments, "hands": hands}[text]()
        return rows[:: max(1, len(rows) // 110)][:110]
    if text == "encyclopaedic":
        rows = [json.loads(line) for line in (ASSETS / "plain.jsonl").read_text(encoding="utf-8").splitlines()]
        return [(row["text"], row["id"]) for row in rows if row["register"] == text]
    with (ASSETS / "letters.csv").open(encoding="utf-8", newline="") as stream:
        letters = [(row["text"], row["source"]) for row in csv.DictReader(stream)]
    part = int(text.removeprefix("letters-")) - 1
    return letters[len(letters) * part // 3 : len(letters) * (part + 1) // 3]


def write_text_file(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, [{"text": text, "source": source} for text, source in rows])
    return path


def base_folder(out: Path, name: str, fed: str | None = None, seed: int = 0) -> Path | str:
    """A base by its name, pre-trained now if it is not there yet; `fed` is a text it also learned from, `seed` that of its weights."""
    if name == "spark":
        return "galvan/spark"
    folder = out / "bases" / "-".join(filter(None, (name, fed, str(seed) if seed else "")))
    if not (folder / "done").is_file():
        _pretrain(folder, name, fed, seed)
        write_text(folder / "done", "")
    return folder


def _pretrain(folder: Path, name: str, fed: str | None, seed: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from galvan.data.tokens import training_rows
    from galvan.models import save
    from galvan.recipe import Training
    from galvan.rundir import Document
    from galvan.training.loop import train

    tokenizer = _tokenizer()
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[name], **ids, max_position_embeddings=256))
    texts = [*manual(), *(4 * [text for text, _ in passages(fed)] if fed else [])]
    random.Random(seed).shuffle(texts)
    documents = [Document(str(n), text, "", n) for n, text in enumerate(texts)]
    rows = training_rows(tokenizer, documents, DOCUMENT_TOKENS, True)
    settings = Training(method="full", optimizer="muon", learning_rate=0.01, epochs=1.5, batch_size=32, evaluations=1)
    train(model, rows, settings, seed, folder / "work")
    save(model, folder, tokenizer)


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*manual(), *(text for text, _ in passages("encyclopaedic"))], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def recipe(out: Path, setting: Setting, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The healthy recipe of a setting as a tree, `changes` by dotted path over it."""
    source = write_text_file(out / "texts" / f"{setting.text}.jsonl", passages(setting.text))
    tree: dict[str, Any] = {
        "name": "case",
        "seed": setting.seed,
        "data": {"source": str(source), "document_tokens": DOCUMENT_TOKENS, "maximum_documents": 160,
                 "split": {"validation": 0.125, "test": 0.25}},
        "model": {"base": str(base_folder(out, setting.base)), "device": "cpu", "dtype": "float32"},
        "training": {"method": "lora", "lora": {"rank": 8, "alpha": 16.0}, "epochs": 4.0, "learning_rate": 0.01, "batch_size": 4,
                     "probe_documents": 20, "checkpoint_seconds": 600.0, **(SPARK_TRAINING if setting.base == "spark" else {})},
        "generation": dict(GENERATION),
    }  # fmt: skip
    for path, value in (changes or {}).items():
        *sections, last = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tree


def run(folder: Path, tree: dict[str, Any]) -> Any:
    """`galvan.run` of a recipe tree; returns what it judged."""
    import galvan
    from galvan import recipe as recipes
    from galvan.rundir import to_json

    return galvan.run(recipes.from_text(to_json(tree), "benchmark"), folder, offline=True)


def healthy(out: Path, setting: Setting) -> Path:
    """The folder of a healthy finished run of `setting`, trained now if it is not there yet; never written to by a case."""
    folder = out / "healthy" / setting.name
    if not (folder / "verdict.json").is_file():
        run(folder, recipe(out, setting))
    return folder
