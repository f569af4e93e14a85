"""Is the adapter really in the model? The checks in their order, cheap and decisive first: files, object graph, values, base
fingerprint, function. Files that already prove the adapter broken end the story: nothing is loaded, and nothing is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from galvan.errors import DataError, ModelError
from galvan.measure.adapter_files import file_facts
from galvan.measure.facts import FileFacts, Integrity, broken
from galvan.models import Located, load_adapter, load_base, load_tokenizer, weight_files
from galvan.recipe import Model

LEARNED_PROMPT = "it learned a prompt and adapts no layer, so that its tokens do not line up with the base's"


def check(base: Located, adapter: Located, settings: Model, texts: Sequence[str] = (), load: bool = True) -> Integrity:
    """Gather the facts about `adapter` (or a whole fine-tuned model) on `base`; `texts` default to three bundled sentences.

    The base is loaded afresh and its likelihoods are taken before it is wrapped. Files and global random state stay as they
    were. Raises ModelError where something is missing, damaged or cannot be loaded, ComparisonRefused (A01) where the base's own
    folder puts an adapter into it.
    """
    files = file_facts(base, adapter)
    why = broken(files)
    if why is not None:
        return Integrity(files, reason=f"not loaded, because {why}")
    if not load:
        return Integrity(files, reason="only files were read, and nothing in them is wrong")
    return _check_loaded(base, adapter, settings, texts, files)


def _check_loaded(base: Located, adapter: Located, settings: Model, texts: Sequence[str], files: FileFacts) -> Integrity:
    from galvan.measure import live as living

    if files.kind == "other" and living.is_prompt(adapter.path):
        return Integrity(files, reason=LEARNED_PROMPT)
    with living.keep_random_state():
        rows = living.encode(load_tokenizer(base), texts or living.CHECK_TEXTS)
        if not rows:
            raise DataError("data/too-short", "None of the texts for the check has a token that could be scored; give longer ones.")
        model = load_base(base, settings)
        state, base_nll = living.adapter_state(model), living.alone_nll(model, rows)
        if files.kind == "full":
            tuned = load_base(adapter, settings)
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
        return Integrity(files, live, living.function_facts(tuned, base_nll, rows))
