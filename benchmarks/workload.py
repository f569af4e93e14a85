"""What every contestant works on: the texts of galvan/letters, the same ids for all, and a model of one of three sizes.

S is galvan/spark itself; M and L are Llama-shaped with random weights: speed does not depend on what the weights say.
"""

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
    """How much is measured: documents trained on (a multiple of the batch), documents scored, rounds; of the small model also prompts,
    starts, rounds and documents of the whole job, and documents of the test of scale."""

    trained: int
    scored: int
    rounds: int
    prompts: int = 0
    starts: int = 0
    jobs: int = 0
    job_documents: int = 0
    documents: tuple[int, ...] = ()


SHAPES = {
    "M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
          "vocab_size": 8192},
    "L": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
          "vocab_size": 32000},
}  # fmt: skip
FULL = {"S": Size(80, 200, 5, 50, 7, 2, 481, (1_000, 10_000, 100_000)), "M": Size(16, 30, 3), "L": Size(16, 0, 2)}
QUICK = {"S": Size(16, 10, 1, 4, 1, 1, 12, (100, 200)), "M": Size(16, 4, 1), "L": Size(16, 0, 1)}


@dataclasses.dataclass(frozen=True)
class Workload:
    """The texts and ids of one run of the benchmarks."""

    scale: str
    size: Size
    base: Located
    tokenizer: Any
    documents: list[Document]

    @classmethod
    def load(cls, size: Size, scale: str = "S") -> Workload:
        base = models.locate("galvan/spark")
        documents = [Document(str(i), row.text, "letters", i) for i, row in enumerate(read("galvan/letters", "text"))]
        assert len(documents) >= max(size.trained, size.scored)
        return cls(scale, size, base, models.load_tokenizer(base), documents)

    def rows(self) -> list[TokenRow]:
        """Training rows: BOS, text, EOS."""
        return training_rows(self.tokenizer, self.documents[: self.size.trained], MAX_TOKENS, True)

    def model(self) -> Any:
        """A fresh base in float32, in evaluation mode."""
        if self.scale == "S":
            return models.load_base(self.base, Model(dtype="float32", device="cpu"))
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(SEED)
        return LlamaForCausalLM(LlamaConfig(**SHAPES[self.scale], max_position_embeddings=1024)).eval()

    def lora_model(self, dropout: float = 0.0) -> Any:
        """A fresh base with a fresh LoRA around it."""
        return models.add_lora(self.model(), LORA.model_copy(update={"dropout": dropout}), self.base.name, None, SEED)

    def multiplications(self) -> int:
        """N: the weights that every token is multiplied by, the head's too; training an adapter takes 4 N floating-point operations a token
        (forward, and backward to the inputs alone), scoring 2 N."""
        model = self.model()
        return sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name) + (
            model.get_input_embeddings().weight.numel() if model.config.tie_word_embeddings else 0
        )

    def matmul_rate(self) -> float:
        """Floating-point operations a second of this machine's own matrix product at this model's shape: the ceiling."""
        import time

        import torch

        config = self.model().config
        x, w = torch.randn(2048, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
        best, until = float("inf"), time.perf_counter() + 1.0
        while time.perf_counter() < until:
            started = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = min(best, time.perf_counter() - started)
        return 2 * x.numel() * config.intermediate_size / best
