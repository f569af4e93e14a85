"""Faults in what generates: servers, caches, chance, padding in a batch, an export that lost the adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import SOME, fault
from benchmarks.faults.commands import audited, checked
from benchmarks.faults.place import Place, Said, patched

PROMPT = "It was late, and the road went on for miles before"
WORDS = 16

Generate = Callable[[Any, str], str]


def pair(place: Place) -> tuple[Any, Any]:
    """The base and, on a base of its own, the healthy adapter."""
    from peft import PeftModel

    return place.model(), PeftModel.from_pretrained(place.model(), place.healthy / "adapter").eval()


def greedy(place: Place, past: dict[str, Any] | None = None) -> Generate:
    """A server that answers greedily. `past` keeps the keys and values of every prompt longer than the request, whoever filled it."""
    import torch

    tokenizer = place.tokenizer()

    @torch.no_grad()
    def answer(model: Any, prompt: str) -> str:
        model.eval()
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        if past is not None and prompt not in past:
            past[prompt] = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
        cache = copy.deepcopy(past[prompt]) if past else None
        new, given = [], ids if cache is None else ids[:, -1:]
        for _ in range(WORDS):
            out = model(input_ids=given, past_key_values=cache, use_cache=True)
            cache, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
            if int(given) == tokenizer.eos_token_id:
                break
            new.append(int(given))
        return str(tokenizer.decode(new))

    return answer


@fault("A08", settings=SOME)
def prefix_of_another_adapter(place: Place) -> Said:
    """A server keeps the keys and values of a prompt, and uses them for whichever adapter asks next."""
    base, tuned = pair(place)
    return audited(place, base, tuned, generate=greedy(place, {}), prompt=PROMPT)


@fault("A08", "A13", settings=SOME)  # whole answers kept by prompt are what a server gives that always applies the adapter
def answers_kept_by_prompt(place: Place) -> Said:
    """A proxy keeps whole answers by prompt, and not by model."""
    base, tuned = pair(place)
    server, kept = greedy(place), dict[str, str]()

    def proxy(model: Any, prompt: str) -> str:
        if prompt not in kept:
            kept[prompt] = server(model, prompt)
        return kept[prompt]

    return audited(place, base, tuned, generate=proxy, prompt=PROMPT)


@fault("A13", settings=SOME)
def adapter_never_named(place: Place) -> Said:
    """The client asks the server for the base's name, whatever it was told to ask for."""
    base, tuned = pair(place)
    server = greedy(place)
    return audited(place, base, tuned, generate=lambda model, prompt: server(base, prompt), prompt=PROMPT)


@fault("A14", settings=SOME)
def generate_switches_it_off(place: Place) -> Said:
    """A patched generate() runs the base's layers alone, while a forward pass uses the adapter."""
    from peft import PeftModelForCausalLM

    original = PeftModelForCausalLM.generate

    def without(self: Any, *arguments: Any, **named: Any) -> Any:
        with self.disable_adapter():
            return original(self, *arguments, **named)

    with patched(PeftModelForCausalLM, "generate", without):
        return place.evaluate(place.adapter())


@fault("A14", settings=SOME)
def cached_steps_without_it(place: Place) -> Said:
    """Once there are keys and values to go on from, the layers leave the adapter out: the first new token alone has it."""
    from peft.tuners.lora import Linear

    original = Linear.forward

    def forward(self: Any, x: Any, *arguments: Any, **named: Any) -> Any:
        decoding = not self.training and x.ndim == 3 and x.shape[1] == 1
        return self.base_layer(x) if decoding else original(self, x, *arguments, **named)

    with patched(Linear, "forward", forward):
        return place.evaluate(place.adapter())


@fault("H01", settings=SOME)
def padding_not_masked_on_the_left(place: Place) -> Said:
    """Prompts are padded on the left, and neither the mask nor the positions say so."""
    import torch

    from galvan.measure import decode

    class Careless(decode._Left):  # of both ways of writing, with transformers' cache and with galvan's own
        def __init__(self, jobs: Any, device: Any) -> None:
            super().__init__(jobs, device)
            self.real = torch.ones_like(self.real)
            self.positions = torch.arange(self.ids.shape[1], device=device).expand_as(self.ids)

    with patched(decode, "_Left", Careless):
        return place.evaluate(place.adapter())


@fault("H02", settings=SOME)
def sampled_without_a_seed(place: Place) -> Said:
    """The texts of base and tuned were drawn at random, and nothing was seeded."""
    import torch

    base, tuned = pair(place)
    tokenizer = place.tokenizer()

    def generate(model: Any, prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        new = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=WORDS, do_sample=True)
        return str(tokenizer.decode(new[0, ids.shape[1] :]))

    return audited(place, base, tuned, generate=generate, prompt=PROMPT)


@fault("H02", settings=SOME)
def seeds_that_go_on(place: Place) -> Said:
    """One generator serves both arms in turn, so that no prompt has the same seed twice."""
    from galvan.measure import generation

    drawn: list[int] = []

    def next_seed(*arguments: Any) -> int:
        drawn.append(len(drawn))
        return drawn[-1]

    with patched(generation, "seed_of", next_seed):
        return place.evaluate(place.adapter())


def _exported(place: Place, model: Any) -> Path:
    folder = place.folder / "exported"
    model.save_pretrained(folder)
    place.tokenizer().save_pretrained(folder)
    return folder


@fault("H03", settings=SOME)
def exported_without_it(place: Place) -> Said:
    """The export unloaded the adapter instead of merging it: the folder is the base."""
    _, tuned = pair(place)
    return checked(place, place.adapter(), _exported(place, tuned.unload()))


@fault("H03", settings=SOME)
def exported_at_a_small_scale(place: Place) -> Said:
    """The converter took alpha / r for 1 / r and merged a sixteenth of the update."""
    _, tuned = pair(place)
    for module in tuned.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: scale / 16 for name, scale in module.scaling.items()}
    return checked(place, place.adapter(), _exported(place, tuned.merge_and_unload()))


@fault(
    "B09", "A05", settings=SOME
)  # the object that was scored holds no layer: how it came to be so is A05's or this one's question
def weights_without_layers(place: Place) -> Said:
    """load_state_dict(..., strict=False) gave the adapter's weights to a model without its layers, and its answer was read by nobody."""
    from safetensors.torch import load_file

    adapter, tuned = place.healthy / "adapter", place.model()
    lost = tuned.load_state_dict(load_file(adapter / "adapter_model.safetensors"), strict=False)
    return audited(place, place.model(), tuned, adapter=adapter, loaded=lost)
