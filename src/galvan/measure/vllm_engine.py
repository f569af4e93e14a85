"""Writing with vLLM, where it is installed: only the words are its own. galvan scores them again and refuses those it does not agree with.

Written against vLLM's public API (LLM, SamplingParams, TokensPrompt, LoRARequest); a LoRA on `lm_head` or `embed_tokens`, or one with
modules saved whole, is not vLLM's to apply, and the agreement of likelihoods is what finds that.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from galvan.errors import ModelError
from galvan.measure.decode import Continuation, Job
from galvan.models import Located, read_config
from galvan.text import shown

GPU_SHARE = 0.5  # of the GPU's memory: the rest is for our own copy of the model, which scores


def engine(base: Located, context: int, dtype: str) -> _VLLM:
    """A writer for `galvan.measure.generation.generate`; ModelError `generation/no-vllm` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "generation/no-vllm", "generation.engine is vllm, but vLLM is not installed: install it, or set generation.engine to galvan."
        )  # fmt: skip
    return _VLLM(base, context, dtype)


class _VLLM:
    """One loaded base for all arms; adapters are given with each request. A whole tuned model gets an LLM of its own."""

    def __init__(self, base: Located, context: int, dtype: str) -> None:
        self.base, self.context, self.dtype = base, context, dtype
        self.vllm: Any = importlib.import_module("vllm")
        self.loaded: tuple[Located, int, Any] | None = None
        self.adapters: dict[str, int] = {}

    def __call__(self, arm: str, located: Located | None, jobs: Sequence[Job], stops: Collection[int]) -> list[Continuation]:
        """As `decode`, with vLLM's own draws from the same seeds: the same words again on the same machine, not galvan's words."""
        config = located.path / "adapter_config.json" if located is not None else None
        is_adapter = config is not None and config.is_file()
        model = self.base if located is None or is_adapter else located
        rank = int(read_config(config).get("r", 16)) if config is not None and is_adapter else 0
        request = None
        if located is not None and is_adapter:
            number = self.adapters.setdefault(str(located.path), len(self.adapters) + 1)
            request = importlib.import_module("vllm.lora.request").LoRARequest(arm, number, str(located.path))
        sampling = [
            self.vllm.SamplingParams(
                temperature=job.sampling.temperature, top_p=job.sampling.top_p, seed=job.seed, logprobs=0, detokenize=False,
                max_tokens=min(job.sampling.max_new_tokens, self.context - len(job.ids)), stop_token_ids=sorted(stops),
            )
            for job in jobs
        ]  # fmt: skip
        prompts = [self.vllm.TokensPrompt(prompt_token_ids=list(job.ids)) for job in jobs]
        try:
            outputs = self._llm(model, rank).generate(prompts, sampling, use_tqdm=False, lora_request=request)
        except (ValueError, RuntimeError) as error:
            raise ModelError("generation/vllm", f"{arm}: vLLM cannot write: {shown(str(error), 240)}") from None
        return [_continuation(output.outputs[0], job, stops, self.context) for output, job in zip(outputs, jobs, strict=True)]

    def _llm(self, model: Located, rank: int) -> Any:
        if self.loaded is None or self.loaded[0] != model or self.loaded[1] < rank:
            self.loaded = None  # the old one's memory first
            room: dict[str, Any] = {"enable_lora": True, "max_lora_rank": _lora_room(rank)} if model == self.base else {}
            llm = self.vllm.LLM(
                model=str(model.path), dtype=self.dtype, max_model_len=min(self.context, _positions(model)), gpu_memory_utilization=GPU_SHARE, **room
            )  # fmt: skip
            self.loaded = (model, room.get("max_lora_rank", 0), llm)
        return self.loaded[2]


def _lora_room(rank: int) -> int:
    """The smallest rank not below `rank` that vLLM makes room for."""
    return next((room for room in (16, 32, 64, 128, 256, 512) if room >= rank), rank)


def _positions(model: Located) -> int:
    return int(read_config(model.path / "config.json").get("max_position_embeddings") or 1 << 30)


def _continuation(output: Any, job: Job, stops: Collection[int], context: int) -> Continuation:
    ids = [int(i) for i in output.token_ids]
    logprobs: Sequence[Mapping[int, Any]] = output.logprobs
    values = [float(at[i].logprob) for i, at in zip(ids, logprobs, strict=True)]
    ended = output.finish_reason == "stop"
    if ended and ids and ids[-1] in stops:
        ids, values = ids[:-1], values[:-1]
    full = len(job.ids) + len(ids) >= context
    return Continuation(ids, values, "eos" if ended else "context" if full else "length")
