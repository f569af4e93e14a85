"""Is the adapter really in the model? The checks in their order, cheap and decisive first: files, object graph, values, base
fingerprint, function. Files that already prove the adapter broken end the story: nothing is loaded, and nothing is scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from galvan.errors import DataError, ModelError
from galvan.measure.adapter_files import file_facts, same_tokenizer
from galvan.measure.bench import Bench
from galvan.measure.facts import Exported, FileFacts, Integrity, broken
from galvan.measure.recorded import recorded
from galvan.models import Located, fingerprints, load_adapter, load_base, load_tokenizer, weight_files
from galvan.recipe import Model
from galvan.text import shown

LEARNED_PROMPT = "it learned a prompt and adapts no layer, so that its tokens do not line up with the base's"


def check(
    base: Located,
    adapter: Located,
    settings: Model,
    texts: Sequence[str] = (),
    load: bool = True,
    exported: Located | None = None,
    bench: Bench | None = None,
) -> Integrity:
    """Gather the facts about `adapter` (or a whole fine-tuned model) on `base`; `texts` default to three bundled sentences.
    `exported` is a whole model that another program made of the two; its likelihoods are taken on the same texts.

    The base comes from `bench`, by default loaded afresh, and its likelihoods are taken before it is wrapped. Files and global random state stay as they
    were. Raises ModelError where something is missing, damaged or cannot be loaded, ComparisonRefused (A01) where the base's own
    folder puts an adapter into it.
    """
    files, record = file_facts(base, adapter), recorded(adapter)
    bench = bench or Bench(base, settings)
    digest = bench.said(["fingerprints"], lambda: fingerprints(base)).weights if record and record.base_sha256 else None
    why = broken(files)
    if why is not None:
        found = Integrity(files, reason=f"not loaded, because {why}")
    elif not load:
        found = Integrity(files, reason="only files were read, and nothing in them is wrong")
    else:
        found = _check_loaded(base, adapter, settings, texts, files, exported, bench)
    return dataclasses.replace(found, recorded=record, base_sha256=digest)


def _check_loaded(
    base: Located,
    adapter: Located,
    settings: Model,
    texts: Sequence[str],
    files: FileFacts,
    exported: Located | None,
    bench: Bench,
) -> Integrity:
    from galvan.measure import live as living
    from galvan.measure.weights import with_weight_norms

    if files.kind == "other" and living.is_prompt(adapter.path):
        return Integrity(files, reason=LEARNED_PROMPT)
    with living.keep_random_state():
        rows = living.encode(load_tokenizer(base), texts or living.CHECK_TEXTS)
        if not rows:
            raise DataError("data/too-short", "None of the texts for the check has a token that could be scored; give longer ones.")
        model = bench.host(bench.base())
        state, base_nll = living.adapter_state(model), living.alone_nll(model, rows)
        if files.kind == "full":
            tuned = bench.load(adapter)
            if files.same_tokenizer is False:  # its ids mean other text: it is examined alone, and compared by bytes later
                own = living.encode(load_tokenizer(adapter), texts or living.CHECK_TEXTS)
                return Integrity(files, living.live_facts(model, tuned, state), living.function_facts(tuned, None, own))
            return Integrity(files, living.live_facts(model, tuned, state), living.function_facts(tuned, base_nll, rows))
        try:
            tuned = load_adapter(model, adapter)
        except ModelError as error:
            if error.code != "B01":
                raise
            return Integrity(files, refused_by_peft=str(error), reason="PEFT did not load the adapter whole")
        live = living.live_facts(model, tuned, state, living.read_tensors(weight_files(adapter, "adapter_model")))
        function = living.function_facts(tuned, base_nll, rows, sweep=True, generate=True)
        probe = None
        if exported is not None:
            with living.evaluation_mode(tuned):
                nll = base_nll, living.alone_nll(tuned, rows), living.alone_nll(_exported(base, exported, settings), rows)
            probe = Exported(*(float(arm.double().mean()) for arm in nll))
        files = with_weight_norms(files, tuned)
        bench.give_back(bench.unload(tuned, adapter))
        return Integrity(files, live, function, exported=probe)


def _exported(base: Located, exported: Located, settings: Model) -> Any:
    if same_tokenizer(base, exported) is False:
        raise ModelError(
            "check/exported",
            f"{shown(exported.name)} has another tokenizer than the base, so that its likelihoods cannot be held beside the base's.",
        )
    return load_base(exported, settings)
