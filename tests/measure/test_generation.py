"""Texts of both arms: decoding beside transformers' own, draws that do not depend on the batch, rows as promised, the checks and their faults."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from chat_tokenizers import CHATML, LLAMA, MISTRAL, chat_tokenizer
from galvan.data.tokens import training_rows
from galvan.errors import ComparisonRefused, DataError, ModelError
from galvan.measure import decode as decoding
from galvan.measure import generation, vllm_engine
from galvan.measure.bench import Bench
from galvan.measure.decode import Continuation, Job, Sampling, choose, decode, stop_ids
from galvan.measure.generation import AGAIN, BASE, Sample, batch_facts, generate, merged_copy, slots
from galvan.measure.prompts import PROMPT_WORDS, median_length, prompt_facts, prompts
from galvan.measure.scoring import score
from galvan.models import Choice, Located
from galvan.payload import Chat, Pair, Tokens
from galvan.progress import Silent
from galvan.recipe import Generation, from_text
from galvan.rundir import Document
from models_for_tests import byte_tokenizer, move, save_adapter, save_base, tiny_gpt2, tiny_llama, tiny_mistral, wrap

TOKENIZER = byte_tokenizer()
EOS = 257
GREEDY = Sampling("greedy", 0.0, 1.0, 24)
WARM = Sampling("distribution", 1.0, 1.0, 24)
MODELS = {"llama": tiny_llama(), "sliding window": tiny_mistral(sliding_window=8), "gpt2": tiny_gpt2()}
PROMPTS = [[256, *range(40, 40 + n)] for n in (3, 11, 30, 30, 7)]
CPU, FLOAT32 = Choice("cpu", "test"), Choice("float32", "test")
LONG = [Document(f"d{n}", " ".join(f"word{n}-{i}" for i in range(80)), "book", n) for n in range(6)]


def ended_by(model: Any, prompt: list[int]) -> int:
    """A token that the model writes in the midst of its greedy continuation, to serve as end of text."""
    return decode(model, [Job(prompt, GREEDY)], {EOS}, 256, 300, 0)[0].ids[10]


# ---- decoding ----


@pytest.mark.parametrize("name", MODELS)
def test_greedy_texts_of_a_batch_are_those_of_transformers_one_by_one(name: str) -> None:
    model, eos = MODELS[name], ended_by(MODELS[name], PROMPTS[1])
    found = decode(model, [Job(ids, GREEDY) for ids in PROMPTS], {eos}, 256, 300, 1 << 20)
    assert {one.stop for one in found} == {"eos", "length"}, "the test needs rows that leave the batch, and rows that stay"
    for ids, one in zip(PROMPTS, found, strict=True):
        told = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=eos, pad_token_id=258)[
            0, len(ids) :
        ].tolist()
        assert one.ids == (told[: told.index(eos)] if eos in told else told)
        assert one.stop == ("eos" if eos in told else "length")


@pytest.mark.parametrize("template", [CHATML, LLAMA, MISTRAL])
def test_a_conversation_is_continued_as_transformers_continues_it(template: str) -> None:
    tokenizer = chat_tokenizer(template)
    model = tiny_llama(2, vocab_size=len(tokenizer) + 8)
    asked = Document(
        "d", "", "s", 0, payload=Chat(({"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "Nobody."}))
    )
    [prompt] = prompts({"test": [asked]}, Generation(), tokenizer)
    ids = prompt.ids(tokenizer)
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is there?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert theirs["input_ids"][0].tolist() == ids and ids[:2] != [tokenizer.bos_token_id] * 2
    row = training_rows(tokenizer, [asked], None, True)[0]
    assert row.input_ids[: len(ids)].tolist() == ids
    told = model.generate(**theirs, max_new_tokens=24, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=258,
                          suppress_tokens=list(range(len(tokenizer), len(tokenizer) + 8)))[0, len(ids) :].tolist()  # fmt: skip
    [one] = decode(model, [Job(ids, GREEDY)], {tokenizer.eos_token_id}, 256, len(tokenizer), 1 << 20)
    assert one.ids == [i for i in told if i != tokenizer.eos_token_id]


@pytest.mark.parametrize("name", MODELS)
def test_sampled_words_do_not_depend_on_the_batch(name: str) -> None:
    jobs = [Job(ids, WARM, seed) for seed, ids in enumerate(PROMPTS * 2)]
    alone = decode(MODELS[name], jobs, {EOS}, 256, 300, 0)
    for budget, some in ((200, jobs), (1 << 20, jobs), (1 << 20, jobs[::-1])):
        found = decode(MODELS[name], some, {EOS}, 256, 300, budget)
        assert [x.ids for x in (found if some is jobs else found[::-1])] == [x.ids for x in alone]
    assert len({tuple(x.ids) for x in alone}) == len(alone)
    assert [x.ids for x in decode(MODELS[name], [Job(j.ids, WARM, j.seed + 1) for j in jobs], {EOS}, 256, 300, 1 << 20)] != [
        x.ids for x in alone
    ]


def test_the_inverse_of_the_cdf_is_the_distribution() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.2]]).repeat(20_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (1.3, 0.9)):
        tokens, logprobs = choose(logits, [Sampling("x", temperature, top_p, 1)] * 20_000, uniforms, 5)
        p = (logits[0].double() / temperature).softmax(-1).numpy()
        order = np.argsort(-p)
        kept = order[: int(np.searchsorted(p[order].cumsum(), top_p)) + 1] if top_p < 1 else order
        expected = np.where(np.isin(np.arange(5), kept), p, 0) / p[kept].sum()
        assert np.abs(np.bincount(tokens, minlength=5) / 20_000 - expected).max() < 0.012
        assert np.allclose(logprobs, logits[0].double().log_softmax(-1)[tokens]), "at temperature 1 over the whole vocabulary"


def test_ids_that_no_tokenizer_knows_are_never_written() -> None:
    logits = torch.tensor([[0.0, 0.0, 50.0]]).repeat(2, 1)
    tokens, _ = choose(
        logits, [Sampling("g", 0.0, 1.0, 1), Sampling("s", 1.0, 1.0, 1)], torch.tensor([0.2, 0.9], dtype=torch.float64), 2
    )
    assert tokens == [0, 1]


def test_a_text_stops_where_the_model_has_no_more_positions_and_a_prompt_that_fills_them_is_refused() -> None:
    [one] = decode(MODELS["gpt2"], [Job(list(range(250)), GREEDY)], set(), 256, 300, 1 << 20)
    assert (len(one.ids), one.stop) == (6, "context")
    with pytest.raises(DataError, match="256 tokens"):
        decode(MODELS["gpt2"], [Job(list(range(256)), GREEDY)], set(), 256, 300, 1 << 20)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    broken = tiny_llama(1)
    broken.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(ModelError, match="no finite probabilities"):
        decode(broken, [Job(PROMPTS[0], GREEDY)], {EOS}, 256, 300, 0)


def test_ends_of_turns_that_the_model_names_are_ends() -> None:
    model = tiny_llama(1)
    model.generation_config.eos_token_id = [5, 7]
    assert stop_ids(model, TOKENIZER) == {5, 7, 257}


def test_a_learned_prompt_is_kept_while_writing() -> None:
    """A14: with a cache PEFT would put the prompt before every single token, or nowhere."""
    from peft import PromptTuningConfig, get_peft_model

    tuned = get_peft_model(tiny_llama(4), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight, std=2.0)
    ids = list(PROMPTS[1])
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(tuned(input_ids=torch.tensor([ids])).logits[0, -1, :300].argmax()))
    some = Sampling("greedy", 0.0, 1.0, 8)
    found = decode(tuned, [Job(PROMPTS[1], some), Job(PROMPTS[2], some)], set(), 256, 300, 1 << 20)
    assert found[0].ids == ids[len(PROMPTS[1]) :]
    assert found[0].ids != decode(tuned.get_base_model(), [Job(PROMPTS[1], some)], set(), 256, 300, 0)[0].ids


# ---- the checks before writing, and their faults ----


def test_a_healthy_batch_is_what_each_row_is_alone() -> None:
    facts = batch_facts(MODELS["sliding window"], PROMPTS, {EOS}, 256, 300)
    assert (facts.identical, facts.teacher_forced, facts.alone) == (5, 1.0, False)
    assert facts.largest_difference_nats < 1e-4 and facts.tokens > 50


@pytest.mark.parametrize("fault", ["positions of padding", "padding attended to"])
def test_a_batch_that_pads_wrongly_is_seen_and_rows_are_then_written_alone(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoding._Cached.first

    def wrong(self: Any) -> Any:
        if fault == "positions of padding" and self.inputs.shape[1] > 1:
            self.positions = torch.arange(self.inputs.shape[1]).expand(self.inputs.shape[0], -1)
        if fault == "padding attended to" and self.mask is not None:
            self.mask = torch.ones_like(self.mask)
        return first(self)

    monkeypatch.setattr(decoding._Cached, "first", wrong)
    facts = batch_facts(tiny_gpt2(), PROMPTS, {EOS}, 256, 300)
    assert facts.alone and facts.largest_difference_nats > 0.01


def test_an_adapter_is_merged_only_where_likelihoods_stay() -> None:
    tuned = move(wrap(tiny_llama(5)), size=0.3).eval()
    before = copy.deepcopy(tuned.state_dict())
    merged, facts = merged_copy(tuned, PROMPTS)
    assert merged is not None and facts.merged and facts.largest_difference_nats <= 1e-4
    jobs = [Job(ids, GREEDY) for ids in PROMPTS]
    assert [x.ids for x in decode(merged, jobs, {EOS}, 256, 300, 9999)] == [
        x.ids for x in decode(tuned, jobs, {EOS}, 256, 300, 9999)
    ]
    assert all(torch.equal(before[k], v) for k, v in tuned.state_dict().items()), "the original is not touched"


def test_a_merge_that_changes_likelihoods_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    tuned = move(wrap(tiny_llama(5)), size=0.3).eval()
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: self.unload(), raising=False)
    monkeypatch.setattr(type(tuned.base_model), "merge_and_unload", lambda self: self.unload())
    merged, facts = merged_copy(tuned, PROMPTS)
    assert merged is None and not facts.merged and facts.largest_difference_nats > 1e-3
    assert merged_copy(tuned.to(torch.bfloat16), PROMPTS)[1].reason == "the weights are not float32 throughout"


def test_an_adapter_with_biases_that_its_base_lacks_is_not_merged_and_no_error() -> None:
    tuned = move(wrap(tiny_llama(5), lora_bias=True)).eval()
    assert merged_copy(tuned, PROMPTS) == (None, generation.MergeFacts(False, "PEFT cannot merge this kind of adapter"))


# ---- prompts ----


def test_a_prompt_cut_inside_a_long_word_begins_its_row_all_the_same() -> None:
    """Text of long words is cut anywhere: `vars(getattr` after `vars(ge`, whose last token the whole text does not have."""
    pieces = {piece: i for i, piece in enumerate(["a", "b", "c", "ab", "abc"])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, [("a", "b"), ("ab", "c")]))
    greedy = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="c")
    text = "abc" * 61
    found = prompts({"test": [replace(LONG[0], text=text)]}, Generation(documents=1), greedy)
    assert len(found[0].text) % 3, "cut inside a token"
    assert prompt_facts(found, [replace(LONG[0], text=text)], greedy).prefix_of_training == 1


def test_prompts_are_beginnings_of_held_out_texts_cut_at_a_word() -> None:
    found = prompts({"test": LONG[:2], "validation": LONG[2:]}, Generation(documents=4), TOKENIZER)
    assert [p.split for p in found] == ["test", "test", "validation", "validation"]
    for prompt in found:
        whole = next(d.text for d in LONG if d.id == prompt.document)
        assert whole.startswith(prompt.text + " ") and len(prompt.text.split()) == PROMPT_WORDS
        assert (
            prompt.ids(TOKENIZER)
            == training_rows(TOKENIZER, [Document("x", whole, "", 0)], None, True)[0].input_ids[: len(prompt.text) + 1].tolist()
        )
    facts = prompt_facts(found, LONG, TOKENIZER)
    assert (facts.checked, facts.prefix_of_training, facts.double_bos) == (4, 4, 0)
    assert median_length(found, LONG, TOKENIZER) == len(LONG[0].text) - len(found[0].text)


def test_a_second_bos_and_a_prompt_unlike_training_are_counted() -> None:
    chat = Document("c", "x", "s", 0, payload=Chat(({"role": "user", "content": "q"}, {"role": "assistant", "content": "x"})))
    healthy, doubled = chat_tokenizer(LLAMA), chat_tokenizer(LLAMA)
    doubled.chat_template = "{{ bos_token }}" + doubled.chat_template
    for tokenizer, double in ((healthy, 0), (doubled, 1)):
        facts = prompt_facts(prompts({"test": [chat]}, Generation(), tokenizer), [chat], tokenizer)
        assert (facts.checked, facts.prefix_of_training, facts.double_bos) == (1, 1, double)
    plain = prompts({"test": LONG[:1]}, Generation(), TOKENIZER)
    assert prompt_facts(plain, [replace(LONG[0], text="Another text. " * 40)], TOKENIZER).prefix_of_training == 0


def test_short_texts_give_half_of_themselves_and_only_where_others_lack() -> None:
    short = [
        Document("s", "one two three four five", "b", 9),
        Document("none", "word", "b", 10),
        Document("zh", "我" * 40, "b", 11),
    ]
    assert [p.text for p in prompts({"test": [*short, *LONG]}, Generation(documents=6), TOKENIZER)] == [
        " ".join(d.text.split()[:35]) for d in LONG
    ]
    assert [p.text for p in prompts({"test": short}, Generation(), TOKENIZER)] == ["one two", "我" * 20]


def test_documents_with_prompts_of_their_own_keep_them_and_the_recipes_come_last() -> None:
    documents = [
        Document("p", "b", "s", 0, payload=Pair("a: ", "b")),
        Document("t", "", "s", 1, payload=Tokens((256, 65, 66, 67), (-100, -100, 66, 67))),
    ]
    found = prompts({"test": documents}, Generation(prompts=["Write."]), TOKENIZER)
    assert [p.ids(TOKENIZER) for p in found[:2]] == [[256, *TOKENIZER("a: ", add_special_tokens=False)["input_ids"]], [256, 65]]
    assert (found[2].id, found[2].kind, found[2].text, found[2].document) == ("recipe:1", "recipe", "Write.", None)
    chat = [Document("c", "x", "s", 0, payload=Chat(({"role": "user", "content": "q"}, {"role": "assistant", "content": "x"})))]
    own = prompts({"test": chat}, Generation(prompts=["Write."]), chat_tokenizer(CHATML))[1]
    assert own.text == "<|im_start|>user\nWrite.<|im_end|>\n<|im_start|>assistant\n"


def test_every_arm_has_the_same_seeds_but_the_second_base() -> None:
    found = prompts({"test": LONG}, Generation(), TOKENIZER)
    asked = Generation(samples=2, greedy=1, top_p=0.9)
    sets = generation.settings_of(asked, 10)
    assert [(s.name, s.temperature, s.top_p) for s in sets] == [("distribution", 1.0, 1.0), ("own", 1.0, 0.9), ("greedy", 0.0, 1.0)]
    one, again = slots(found, sets, asked, 42), slots(found, sets, asked, 42, again=True)
    assert len(one) == 6 * 2 * 2 + 1 and one == slots(found, sets, asked, 42)
    assert not {s.seed for s in one} & {s.seed for s in again}
    assert len({s.seed for s in one if s.sampling is sets[0]}) == 12


# ---- rows ----


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Located:
    folder = save_base(tmp_path_factory.mktemp("base"), tiny_llama(3, max_position_embeddings=512))
    return Located("base", folder)


@pytest.fixture(scope="module")
def adapters(base: Located, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Located]:
    folder = tmp_path_factory.mktemp("adapters")
    load = AutoModelForCausalLM.from_pretrained
    zero = save_adapter(folder / "zero", load(base.path), trained=False)
    trained = save_adapter(folder / "trained", load(base.path), r=2)
    return {"zero": Located("zero", zero), "trained": Located("trained", trained), "zero again": Located("zero", zero)}


def written(
    base: Located, tuned: dict[str, Located], engine: Any = None, **more: Any
) -> tuple[list[Sample], generation.GenerationFacts]:
    recipe = from_text(json.dumps({"generation": {"samples": 2, "greedy": 2, "documents": 3, **more}}))
    found = prompts({"test": LONG}, recipe.generation, TOKENIZER)
    return generate(Bench(base, recipe.model, CPU, FLOAT32), tuned, recipe, TOKENIZER, found, 12, 512, Silent(), engine=engine)


@pytest.fixture(scope="module")
def rows(base: Located, adapters: dict[str, Located]) -> tuple[list[Sample], generation.GenerationFacts]:
    return written(base, adapters)


def of(rows: list[Sample], arm: str, *names: str) -> list[Any]:
    return [(r.prompt_id, r.sample, r.settings["name"], *(getattr(r, n) for n in names)) for r in rows if r.arm == arm]


def test_an_adapter_of_zeros_writes_the_bases_very_words_and_a_trained_one_does_not(rows: Any) -> None:
    samples, facts = rows
    assert of(samples, "zero", "text", "seed") == of(samples, BASE, "text", "seed") == of(samples, "zero again", "text", "seed")
    assert len(of(samples, BASE)) == 3 * 2 + 2 and len(of(samples, AGAIN)) == 6
    assert of(samples, "trained", "text") != of(samples, BASE, "text")
    assert not set(of(samples, AGAIN, "text")) & set(of(samples, BASE, "text"))
    assert facts.greedy_same_as_base["zero"] == 2 and facts.merges["trained"].merged


def test_likelihoods_on_the_rows_are_those_of_the_arm_and_of_the_base(
    base: Located, adapters: dict[str, Located], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the scorer of record, on models loaded here, of the very ids that were written."""
    from peft import PeftModel

    told: dict[str, Any] = {}

    def listening(model: Any, jobs: Any, *rest: Any) -> Any:
        told[rest[-1]] = (jobs, said := decode(model, jobs, *rest))
        return said

    monkeypatch.setattr(generation, "decode", lambda *a: listening(*a) if len(a) == 8 else decode(*a))
    samples, _ = written(base, {"trained": adapters["trained"]})
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapters["trained"].path).eval()
    for arm, columns in ((BASE, {"logprob_nats": plain}), ("trained", {"logprob_nats": tuned, "base_logprob_nats": plain})):
        jobs, said = told[f"Writing {arm}"]
        documents = [
            Document(str(n), "", "s", n, payload=Tokens((*job.ids, *one.ids), (*[-100] * len(job.ids), *one.ids)))
            for n, (job, one) in enumerate(zip(jobs, said, strict=True))
        ]
        mine = [r for r in samples if r.arm == arm]
        for name, model in columns.items():
            for row, scored in zip(mine, score(model, TOKENIZER, documents, "x", "test", 512), strict=True):
                assert row.n_tokens == scored.n_tokens > 0 and getattr(row, name) == pytest.approx(-scored.nll_nats, abs=1e-3)
    assert any(abs(r.logprob_nats - r.base_logprob_nats) > 0.01 for r in samples if r.arm == "trained")


def test_the_same_recipe_writes_the_same_rows_whatever_the_budget(base: Located, adapters: dict[str, Located], rows: Any) -> None:
    some = {"zero": adapters["zero"], "trained": adapters["trained"]}
    again = written(base, some, tokens_per_pass=16)[0]
    for arm in (BASE, AGAIN, "trained"):
        assert of(again, arm, "text", "stop", "n_tokens") == of(rows[0], arm, "text", "stop", "n_tokens")


def test_how_texts_ended_is_counted_by_arm_and_setting(rows: Any) -> None:
    samples, facts = rows
    for arm, by_setting in facts.stops.items():
        for name, counts in by_setting.items():
            mine = [r for r in samples if r.arm == arm and r.settings["name"] == name]
            assert counts == {stop: sum(r.stop == stop for r in mine) for stop in {r.stop for r in mine}}
    changed = [replace(r, stop="eos" if r.sample else "length") for r in samples]
    facts = copy.deepcopy(facts)
    facts.count(changed)
    assert facts.stop_rate[BASE] == 0.5 and facts.stops[BASE]["greedy"] == {"length": 2}


def test_prompts_that_leave_no_room_are_left_out_and_counted(base: Located) -> None:
    recipe = from_text(json.dumps({"generation": {"prompts": ["x" * 600, "Short."], "documents": 0}}))
    found = prompts({"test": LONG}, recipe.generation, TOKENIZER)
    samples, facts = generate(Bench(base, recipe.model, CPU, FLOAT32), {}, recipe, TOKENIZER, found, 4, 512, Silent())
    assert {r.prompt for r in samples} == {"Short."} and (facts.left_out, facts.prompts) == (1, {"recipe": 1})
    assert generate(Bench(base, recipe.model, CPU, FLOAT32), {}, recipe, TOKENIZER, found[:1], 4, 512, Silent())[0] == []


# ---- another engine ----


def honest(base: Located, adapters: dict[str, Located], loses_adapter: bool = False) -> Any:
    """An engine that writes with transformers' models, loaded by itself; or, like some servers, without the adapter."""
    from peft import PeftModel

    def write(arm: str, located: Located | None, jobs: Any, stops: Any) -> list[Continuation]:
        model = AutoModelForCausalLM.from_pretrained(base.path)
        if located is not None and not loses_adapter:
            model = PeftModel.from_pretrained(model, located.path).eval()
        return decode(model, jobs, stops, 512, len(TOKENIZER), 1 << 20)

    return write


def test_an_engine_that_agrees_is_taken_and_one_that_lost_the_adapter_is_refused(
    base: Located, adapters: dict[str, Located], rows: Any, tmp_path: Path
) -> None:
    some = {"trained": adapters["trained"]}
    samples, facts = written(base, some, honest(base, adapters))
    assert facts.engine_difference_nats.keys() == {BASE, AGAIN, "trained"} and max(facts.engine_difference_nats.values()) < 1e-4
    assert of(samples, "trained", "text") == of(rows[0], "trained", "text")
    with pytest.raises(ComparisonRefused, match=r"trained: .* it has lost the adapter"):
        written(base, some, honest(base, adapters, loses_adapter=True))
    with pytest.raises(ComparisonRefused, match="nats a token, more than"):
        written(base, {}, honest(Located("other", save_base(tmp_path / "other", tiny_llama(9))), adapters))


def test_vllm_is_asked_for_by_name_where_it_is_not_installed(base: Located, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="vLLM is not installed") as caught:
        vllm_engine.engine(base, 512, "float32")
    assert caught.value.code == "generation/no-vllm"


def test_vllms_answers_are_read_as_its_interface_says(
    base: Located, adapters: dict[str, Located], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the names of vLLM's public interface; the real one was not run."""
    asked: dict[str, Any] = {}

    class Plain:
        def __init__(self, *values: Any, **named: Any) -> None:
            self.values = values
            self.__dict__.update(named)

    class LLM(Plain):
        def generate(self, prompts: Any, sampling: Any, use_tqdm: bool, lora_request: Any) -> list[Any]:
            asked.update(prompts=prompts, sampling=sampling, lora=lora_request, llm=self)
            at = [{7: Plain(logprob=-0.5)}, {EOS: Plain(logprob=-1.0)}]
            ends = [("stop", [7, EOS], at), ("length", [7], at[:1])]
            return [Plain(outputs=[Plain(token_ids=ids, logprobs=lp, finish_reason=why)]) for why, ids, lp in ends]

    module = Plain(LLM=LLM, SamplingParams=Plain, TokensPrompt=Plain, LoRARequest=Plain)
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine.importlib, "import_module", lambda name: module)
    write = vllm_engine.engine(base, 512, "float32")
    found = write("trained", adapters["trained"], [Job([1, 2], WARM, 5), Job([3], GREEDY, 6)], {EOS})
    assert found == [Continuation([7], [-0.5], "eos"), Continuation([7], [-0.5], "length")]
    assert asked["lora"].values == ("trained", 1, str(adapters["trained"].path)) and asked["llm"].max_lora_rank == 16
    assert (asked["sampling"][0].seed, asked["sampling"][0].temperature, asked["sampling"][0].stop_token_ids) == (5, 1.0, [EOS])
    assert asked["prompts"][0].prompt_token_ids == [1, 2]
    write(BASE, None, [Job([1], WARM), Job([1], WARM)], {EOS})
    assert asked["lora"] is None
