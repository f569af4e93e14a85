"""Train the bundled base model from a folder of plain-text books, with galvan's own full training.

    python scripts/make_spark.py BOOKS --held-out stevenson-treasure.txt wilde-gray.txt --out OUT

Trains a byte-level BPE tokenizer and a small model of the Mistral architecture on every .txt file in BOOKS but the held-out
ones, scores the held-out ones whole, and writes a folder that transformers loads: config, tokenizer, bfloat16 weights, and a
model card with the figures of this very run. Interrupted, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from galvan.data.tokens import IGNORE, TokenRow
from galvan.measure.scoring import score
from galvan.models import Located, load_base, load_tokenizer
from galvan.recipe import Model, Training
from galvan.rundir import Document, fingerprint, write_text
from galvan.text import sentence_ends, tidy
from galvan.training.loop import train

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CONTEXT = 512
PROMPTS = ("The night was cold, and", '"I do not believe it," said')


class Printed:
    """Progress as plain lines, for a log."""

    def start(self, label: str, total: float, unit: str) -> None:
        self.done, self.total = 0.0, total

    def advance(self, amount: float, note: str = "") -> None:
        self.done += amount
        if self.done % 25 < amount:
            print(f"{self.done:.0f}/{self.total:.0f} {note}", flush=True)

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)


def train_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[BOS, EOS, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((paragraph + "\n\n" for text in texts for paragraph in text.split("\n\n")), trainer)
    bpe.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=2 * CONTEXT,
        clean_up_tokenization_spaces=False,
    )


class Windows:
    """Each epoch cuts every book anew, at sentence ends, into rows of at most CONTEXT tokens that begin with BOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int) -> None:
        self.seed, self.books = seed, []
        for text in texts:
            encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
            starts = np.array([begin for begin, _ in encoded.offsets])
            ends = np.unique(np.searchsorted(starts, np.fromiter(sentence_ends(text), dtype=np.int64)))
            self.books.append((np.array(encoded.ids, dtype=np.int64), ends))

    def __call__(self, epoch: int) -> list[TokenRow]:
        rng = np.random.default_rng([self.seed, 7, epoch])
        rows: list[TokenRow] = []
        for book, (ids, ends) in enumerate(self.books):
            begin, limit = 0, int(rng.integers(CONTEXT // 4, CONTEXT))
            while begin < len(ids):
                k = int(np.searchsorted(ends, begin + limit - 1, side="right")) - 1
                end = int(ends[k]) if k >= 0 and ends[k] > begin else min(begin + limit - 1, len(ids))
                row = np.concatenate([np.zeros(1, dtype=np.int64), ids[begin:end]])
                labels = row.copy()
                labels[0] = IGNORE
                rows.append(TokenRow(f"{book}:{begin}", row, labels))
                begin, limit = end, CONTEXT
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("--held-out", nargs="+", required=True, help="files of BOOKS that are never trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    files = sorted(arguments.books.glob("*.txt"))
    held = [f for f in files if f.name in arguments.held_out]
    assert len(held) == len(arguments.held_out), f"not in {arguments.books}: {set(arguments.held_out) - {f.name for f in files}}"
    texts = {f.name: tidy(f.read_text(encoding="utf-8")) for f in files}
    training_texts = [text for name, text in texts.items() if name not in arguments.held_out]

    tokenizer = train_tokenizer(training_texts, 4096)
    windows = Windows(tokenizer, training_texts, arguments.seed)
    torch.manual_seed(arguments.seed)
    config = MistralConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=576, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2 * CONTEXT, rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    model = MistralForCausalLM(config)
    settings = Training(
        method="full", optimizer="muon", learning_rate=arguments.learning_rate, epochs=arguments.epochs, batch_size=4, accumulation=3,
        schedule="linear", warmup_ratio=0.02, betas=(0.9, 0.95), evaluations=20, checkpoint_seconds=300.0,
    )  # fmt: skip
    probe = Windows(tokenizer, [texts[f.name] for f in held], arguments.seed)(0)[::12]
    identity = fingerprint({"config": config.to_dict(), "texts": [fingerprint(t) for t in training_texts]})
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(len(ids) for ids, _ in windows.books):,} training tokens",
        flush=True,
    )
    trained = train(
        model, windows, settings, arguments.seed, arguments.out / "work", validation=probe, identity=identity, progress=Printed()
    )

    folder = arguments.out / "spark"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        path.chmod(0o644)
    card = figures(folder, {f.name: texts[f.name] for f in held}) | {
        "training": {name: len(text.encode()) for name, text in texts.items() if name not in arguments.held_out},
        "steps": trained.steps, "tokens": trained.tokens, "hours": trained.seconds / 3600, "parameters": trained.trainable_parameters,
        "settings": settings, "seed": arguments.seed, "threads": arguments.threads, "torch": torch.__version__.partition("+")[0],
    }  # fmt: skip
    write_text(folder / "README.md", model_card(card))
    print(json.dumps({name: round(value["bits_per_byte"], 4) for name, value in card["held_out"].items()}), folder, flush=True)


def figures(folder: Path, held: dict[str, str]) -> dict[str, Any]:
    """Bits per byte on each held-out book, scored whole from the saved bfloat16 files, and a sample of what the model writes."""
    located = Located("galvan/spark", folder)
    tokenizer, model = load_tokenizer(located), load_base(located, Model())
    scores = {}
    for name, text in held.items():
        row = score(model, tokenizer, [Document(name, text, name, 0)], "base", "held-out", CONTEXT)[0]
        nats_per_byte = row.nll_nats / row.n_bytes
        scores[name] = {
            "bits_per_byte": nats_per_byte / math.log(2),
            "perplexity": math.exp(row.nll_nats / row.n_tokens),
            "n_bytes": row.n_bytes,
        }
    samples = []
    for prompt in PROMPTS:
        torch.manual_seed(1)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        written = model.generate(ids, do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=90, pad_token_id=2)
        samples.append(tokenizer.decode(written[0], skip_special_tokens=True))
    total = sum(v["bits_per_byte"] * v["n_bytes"] for v in scores.values()) / sum(v["n_bytes"] for v in scores.values())
    return {"held_out": scores, "held_out_bits_per_byte": total, "samples": samples}


def model_card(card: dict[str, Any]) -> str:
    """The README.md of the model: how it was made, from what, and what it reached."""
    settings: Training = card["settings"]
    lines = [
        "---", "license: cc0-1.0", "language: en", "library_name: transformers", "pipeline_tag: text-generation", "---", "",
        "# galvan/spark", "",
        f"A base language model of {card['parameters']:,} parameters, of the Mistral architecture, with a byte-level BPE of 4,096 tokens of its",
        "own. It is small enough to be bundled and fine-tuned on two cores, so that galvan can be tried and tested offline; it is of no other",
        "use. It has never seen an instruction, and knows nothing that is not in the novels below.", "",
        "## How it was made", "",
        "With galvan's own full training, from random weights, by", "",
        "```sh", f"python scripts/make_spark.py BOOKS --held-out {' '.join(card['held_out'])} --out OUT --epochs {settings.epochs:g}", "```", "",
        f"{card['steps']:,} steps, {card['tokens']:,} trained tokens ({settings.epochs:g} passes, cut anew at sentence ends each time), "
        f"{card['hours']:.1f} hours on {card['threads']} CPU thread{'s' * (card['threads'] > 1)} in float32, PyTorch {card['torch']}, seed {card['seed']}.",
        f"Muon for the inner matrices and AdamW for the rest, learning rate {settings.learning_rate:g}, {settings.schedule} decay after "
        f"{settings.warmup_ratio:.0%} warm-up, {settings.batch_size * settings.accumulation} windows of at most {CONTEXT} tokens a step. Saved in bfloat16.", "",
        "Trained on these public-domain novels (UTF-8 bytes):", "",
        *(f"- {name.removesuffix('.txt')}: {size:,}" for name, size in sorted(card["training"].items())), "",
        "## What it reached", "",
        "On two novels by authors who are not in the training text, each scored whole from the saved files in half-overlapping windows of "
        f"{CONTEXT} tokens (`galvan.measure.scoring`); lower is better:", "",
        "| novel | bytes | bits per byte | perplexity a token |", "| --- | ---: | ---: | ---: |",
        *(f"| {n.removesuffix('.txt')} | {v['n_bytes']:,} | {v['bits_per_byte']:.4f} | {v['perplexity']:.1f} |" for n, v in card["held_out"].items()),
        f"| both | {sum(v['n_bytes'] for v in card['held_out'].values()):,} | {card['held_out_bits_per_byte']:.4f} | |", "",
        "## What it writes", "", "Seed 1, temperature 0.8, top-p 0.95; the first and only samples drawn:", "",
    ]  # fmt: skip
    for sample in card["samples"]:
        lines += [f"> {' '.join(sample.split())}", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
