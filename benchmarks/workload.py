"""What every contestant works on: galvan/spark, the texts of galvan/letters, and the same ids for all."""

from __future__ import annotations

import dataclasses
from typing import Any

from galvan import models
from galvan.data.read import read
from galvan.data.tokens import TokenRow, training_rows
from galvan.models import Located
from galvan.recipe import Lora, Model, Training
from galvan.rundir import Document

SEED = 42
MAX_TOKENS = 514  # no letter is longer
LORA = Lora(rank=8, alpha=16.0, dropout=0.0, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
TRAINING = Training(
    lora=LORA, epochs=1.0, learning_rate=2e-4, batch_size=16, accumulation=1, schedule="constant", warmup_ratio=0.0, evaluations=1,
    checkpoint_seconds=3600.0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured: documents trained on (a multiple of the batch), documents scored, rounds."""

    trained: int
    scored: int
    rounds: int
    starts: int


FULL = Size(trained=80, scored=200, rounds=5, starts=7)
QUICK = Size(trained=32, scored=10, rounds=1, starts=1)


@dataclasses.dataclass(frozen=True)
class Workload:
    """The texts and ids of one run of the benchmarks."""

    size: Size
    base: Located
    tokenizer: Any
    documents: list[Document]

    @classmethod
    def load(cls, size: Size) -> Workload:
        base = models.locate("galvan/spark")
        documents = [Document(str(i), row.text, "letters", i) for i, row in enumerate(read("galvan/letters", "text"))]
        assert len(documents) >= max(size.trained, size.scored)
        return cls(size, base, models.load_tokenizer(base), documents)

    def rows(self) -> list[TokenRow]:
        """Training rows: BOS, text, EOS."""
        return training_rows(self.tokenizer, self.documents[: self.size.trained], MAX_TOKENS, True)

    def model(self) -> Any:
        """A fresh base in float32."""
        return models.load_base(self.base, Model(dtype="float32", device="cpu"))

    def lora_model(self) -> Any:
        """A fresh base with a fresh LoRA around it."""
        return models.add_lora(self.model(), LORA, self.base.name, None, SEED)
