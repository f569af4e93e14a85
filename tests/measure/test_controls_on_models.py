"""The shuffled-text control and two tokenizers on real, tiny models: healthy ones pass, a scorer that sees no order is caught."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import galvan
from galvan import pipeline
from galvan import recipe as recipes
from galvan.cli import main
from galvan.compare import Arm
from galvan.compare_shuffled import ShuffledArm, beside_real, judge_shuffled
from galvan.data.tokens import encode_texts
from galvan.diagnosis.catalogue import Facts, diagnose
from galvan.errors import DataError
from galvan.measure import scoring
from galvan.measure.alignment import common_start, scored_from, token_starts
from galvan.measure.facts import FunctionFacts
from galvan.measure.generation import batch_facts
from galvan.measure.integrity import check
from galvan.models import Located, load_base
from galvan.plan import plan
from galvan.recipe import Model
from galvan.rundir import Document
from galvan.story import Story
from models_for_tests import byte_tokenizer, move, save_adapter, save_base, tiny_llama, wrap

TEXTS = [
    f"The {n} lamps of the harbour were lit at {n % 12 + 1} in the night; nobody came, and letter {n} stayed unread by us."
    for n in range(48)
]

WORDS = [
    "storm",
    "lake",
    "night",
    "letter",
    "harbour",
    "lamp",
    "answer",
    "window",
    "winter",
    "silence",
    "road",
    "father",
    "sister",
    "garden",
]
UNLIKE = [" ".join(np.random.default_rng(n).choice(WORDS, 12)) + "." for n in range(48)]  # no passage of one stands in another


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learned the order of these words in seconds."""
    model, tokenizer = tiny_llama(3, initializer_range=0.05), byte_tokenizer()
    ids = torch.tensor(tokenizer([t.ljust(130)[:130] for t in TEXTS[:24]])["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(60):
        optimizer.zero_grad()
        model(input_ids=ids[step % 3 :: 3], labels=ids[step % 3 :: 3]).loss.backward()
        optimizer.step()
    return save_base(tmp_path_factory.mktemp("knowing"), model.eval())


@pytest.fixture
def adapter(knowing: Path, tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM

    return save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(knowing))


def control_of(base: Path, tuned: Path, data: Path, out: Path) -> tuple[Any, dict[str, Any]]:
    judged = galvan.evaluate(base, tuned, data, out=out)
    return judged.evidence.comparisons.controls["shuffled_text"], dict(judged.verdict)


def test_a_model_that_knows_the_order_of_words_passes(knowing: Path, adapter: Path, tmp_path: Path) -> None:
    control, verdict = control_of(knowing, adapter, write(tmp_path / "d.jsonl", TEXTS[24:]), tmp_path / "run")
    assert control.status == "ok", control.reason
    assert verdict["verdict"] != "refused" and control.n_documents == 8


def test_a_scorer_that_is_fed_sorted_tokens_is_refused_by_name(
    knowing: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "encode_texts", lambda tokenizer, texts: [np.sort(ids) for ids in encode_texts(tokenizer, texts)])
    control, verdict = control_of(knowing, adapter, write(tmp_path / "d.jsonl", TEXTS[24:]), tmp_path / "run")
    assert control.status == "failed" and "word order does not reach the scores" in control.reason
    assert verdict["verdict"] == "refused" and "word order" in verdict["reason"]


def test_a_base_of_random_weights_is_not_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = save_base(tmp_path / "base", tiny_llama(5, initializer_range=0.02))
    adapter = save_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(base))
    control, verdict = control_of(base, adapter, write(tmp_path / "d.jsonl", TEXTS[:16]), tmp_path / "run")
    assert control.status is None and "untrained" in control.reason and verdict["verdict"] != "refused"


def test_documents_of_few_words_leave_the_control_undefined(knowing: Path, adapter: Path, tmp_path: Path) -> None:
    control, verdict = control_of(
        knowing, adapter, write(tmp_path / "d.jsonl", [f"The {n} lamps were lit at night;" for n in range(12)]), tmp_path / "run"
    )
    assert control.status is None and "too few words" in control.reason and verdict["verdict"] != "refused"


# ---- two tokenizers ----


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges, no BOS: fewer tokens than bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=["</s>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def test_both_arms_are_counted_from_the_first_byte_that_both_predict() -> None:
    """With BOS every byte is predicted; without it the pair tokenizer's first token, "Th" or longer, is context, and its bytes drop out."""
    document = Document("d", TEXTS[0], "s", 0)
    bytes_, pairs = byte_tokenizer(), pair_tokenizer()
    first = len(pairs.decode([pairs(TEXTS[0])["input_ids"][0]]))
    assert token_starts(bytes_, "ab c") == {0: 0, 1: 1, 2: 2, 3: 3}
    assert common_start([bytes_, pairs], document) == first > 0
    model = tiny_llama(1)
    for tokenizer in (bytes_, pairs):
        whole = scoring.score(model, tokenizer, [document], "base", "test", 250)
        (row,) = scored_from(whole, tokenizer, [document], [first])
        assert row.n_bytes == len(TEXTS[0].encode()) - first
        assert row.token_nll_nats == whole[0].token_nll_nats[-row.n_tokens :]
        assert row.nll_nats == pytest.approx(sum(row.token_nll_nats), rel=1e-6)
    with pytest.raises(DataError, match="no place"):
        common_start([byte_tokenizer(bos=False), pairs], Document("e", "a", "s", 0))


def test_a_character_of_several_bytes_is_never_cut() -> None:
    starts = token_starts(byte_tokenizer(), "é語a")
    assert set(starts) == {0, 1, 2} and starts[2] == 5


@pytest.fixture
def other_vocabulary(tmp_path: Path) -> Path:
    folder = save_base(tmp_path / "other", tiny_llama(9))
    pair_tokenizer().save_pretrained(folder)
    return folder


def test_a_whole_model_with_its_own_tokenizer_is_judged_by_bits_per_byte_only(
    knowing: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    judged = galvan.evaluate(knowing, other_vocabulary, write(tmp_path / "d.jsonl", TEXTS[24:]), out=tmp_path / "run")
    fit = judged.verdict["fit"]
    assert judged.verdict["verdict"] == "worse"  # random weights beside ones that know the text
    assert fit["base"]["perplexity"] is None and "not comparable" in fit["base"]["reason"]
    assert fit["tuned"]["bits_per_byte"] > fit["base"]["bits_per_byte"] > 0
    assert "not comparable" in (tmp_path / "run" / "analysis.md").read_text()


def test_score_judges_several_together_and_says_how_many_were_looked_at(
    knowing: Path, adapter: Path, other_vocabulary: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "d.jsonl", TEXTS[24:])
    second = save_base(tmp_path / "second", tiny_llama(11))
    scored = pipeline.score(knowing, [adapter, second], data, out=tmp_path / "a")
    assert scored.family is not None and scored.chosen is not None and not scored.chosen.independent
    text = scored.to_text()
    assert "2 candidates were looked at" in text and "both chose among 2 candidates and judge" in text and "by Holm" in text
    assert (
        "perplexity" not in text.split("2 candidates")[0]
        and json.loads(scored.to_json())["family"]["candidates"][0]["p_holm"] is not None
    )
    alone = pipeline.score(knowing, [adapter], data, out=tmp_path / "b")
    assert alone.family is None and "candidates" not in alone.to_text()
    mixed = pipeline.score(knowing, [adapter, other_vocabulary], data, out=tmp_path / "c")
    assert mixed.base_perplexity is None and mixed.family_unit == "bits per byte" and "not comparable" in mixed.to_text()


# ---- plan, seeds, parameters ----


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["galvan", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A base that predicts nearly evenly: one that is sure of other text is at a disadvantage here, which noise would mend."""
    knowing = save_base(tmp_path / "base", tiny_llama(3, initializer_range=0.02))
    write(tmp_path / "train.jsonl", UNLIKE)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\ndata: {{source: {tmp_path / 'train.jsonl'}, split: {{by: random, validation: 0.1, test: 0.3}}}}\nmodel: {{base: {knowing}}}\n"
        "training: {epochs: 1, learning_rate: 1e-3, evaluations: 1, probe_documents: 4, lora: {rank: 2, targets: [q_proj, down_proj]}}\n"
    )
    return path


def test_plan_says_before_training_what_could_be_seen_and_loads_no_model(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("galvan.models.load_base", never)
    assert command(monkeypatch, "plan", recipe_file, "--out", tmp_path / "p") == 0
    text = capsys.readouterr().out
    assert "an assumption, not a measurement" in text and re.search(
        r"If gains spread by 0\.05 nats a token: with these \d+ documents", text
    )
    assert command(monkeypatch, "plan", recipe_file, "--out", tmp_path / "p", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    n = found["plan"]["n_documents"]
    assert found["pilot"] is None and len(found["plan"]["rows"]) == 3 and f"{n} test documents" in text
    assert found["n_tokens"] == sum(
        len(json.loads(line)["text"].encode()) for line in (tmp_path / "p" / "data" / "test.jsonl").open()
    )  # bytes, with BOS


def test_a_plan_without_a_test_document_is_a_data_error(recipe_file: Path, tmp_path: Path) -> None:
    asked = recipes.load(recipe_file, ["data.split.test=0.0"])
    with pytest.raises(DataError, match="held out"):
        plan(asked, tmp_path / "p")


def test_seeds_give_the_recipe_s_interval_on_one_split_and_resume(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command(monkeypatch, "run", recipe_file, "--seeds", 3, "--out", run, "--json")
    recipe = json.loads(capsys.readouterr().out)["fit"]["recipe"]
    assert recipe["training_seeds"] == [42, 43, 44] and recipe["ci95"] is not None, recipe["reason"]
    assert len({(p / "data" / "test.jsonl").read_bytes() for p in (run, run / "seeds" / "43", run / "seeds" / "44")}) == 1
    weights = {
        (p / "adapter" / "adapter_model.safetensors").read_bytes() for p in (run, run / "seeds" / "43", run / "seeds" / "44")
    }
    assert len(weights) == 3
    (run / "seeds" / "44" / "verdict.json").unlink()  # killed while the last was judged
    monkeypatch.setattr(Story, "_train_now", lambda *_: pytest.fail("trained again"))
    command(monkeypatch, "run", recipe_file, "--seeds", 3, "--out", run)
    said = capsys.readouterr()
    assert "The recipe, over 3 training seeds" in " ".join(said.out.split()) and "Reusing train" in said.err
    assert command(monkeypatch, "report", run, "--json") in (0, 1, 6)
    assert json.loads(capsys.readouterr().out)["fit"]["recipe"] == recipe
    counted_parameters_agree_with_peft(run)


def counted_parameters_agree_with_peft(run: Path) -> None:
    """C7.4: what training.json says, PEFT's own count, and the sum over targets of r (d_in + d_out)."""
    from galvan.models import load_adapter, load_base
    from galvan.recipe import Model

    said = json.loads((run / "training.json").read_text())
    recipe = recipes.load(run / "recipe.yaml")
    model = load_adapter(
        load_base(Located("base", Path(recipe.model.base)), Model()), Located("a", run / "adapter"), trainable=True
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model.print_trainable_parameters()
    numbers = [int(n.replace(",", "")) for n in re.findall(r"[\d,]+(?= \|\|)", printed.getvalue())]
    assert (
        said["trainable_parameters"] == numbers[0] == 2 * (2 * (32 + 32) + 2 * (64 + 32))
    )  # two layers, rank 2: q 32 x 32, down 64 x 32
    assert said["total_parameters"] + said["trainable_parameters"] == numbers[1]


# ---- adapters that leave something behind in the base ----


@pytest.mark.parametrize(
    "config",
    [{"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"init_lora_weights": "pissa"}],
    ids=["modules_to_save", "bias", "pissa"],
)
def test_the_zero_adapter_changes_nothing_whatever_the_adapter_left_in_the_base(tmp_path: Path, config: dict[str, Any]) -> None:
    """A foreign adapter, saved as PEFT saves it: unload() gives back the trained head, the trained biases, or the base less its PiSSA part."""
    shape: dict[str, Any] = {"attention_bias": True, "initializer_range": 0.02}
    base = save_base(tmp_path / "base", tiny_llama(3, **shape))
    wrapped = (
        move(wrap(tiny_llama(3, **shape), **config))
        if "init_lora_weights" not in config
        else wrap(tiny_llama(3, **shape), **config)
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            elif "lora_B" in name:
                parameter.mul_(1.3)
    wrapped.eval().save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    judged = galvan.evaluate(base, tmp_path / "adapter", write(tmp_path / "d.jsonl", TEXTS[:16]), out=tmp_path / "run")
    control = judged.evidence.comparisons.controls["zero_adapter"]
    assert control.status == "ok" and control.largest_difference_nats == 0, control.reason


# ---- a threshold between two healthy arms is no proof ----


def arm_of(rise: float, real: float, rng: np.random.Generator, n: int = 12) -> ShuffledArm:
    """An arm of `real` nats a token on documents of 100 tokens; shuffled words cost it the share `rise` more, scattering by 0.03 over documents."""
    names, counts, nats = [f"d{i}" for i in range(n)], np.full(n, 100), real * 100 * rng.normal(1, 0.05, n)

    def scored(values: Any) -> Arm:
        return Arm(names, ["s"] * n, np.arange(n), counts, 4 * counts, values, [np.full(100, v / 100) for v in values])

    return beside_real(scored(nats), scored(nats * (1 + rng.normal(rise, 0.03, n))), 1e-6)


def test_an_over_trained_arm_beside_its_base_is_not_refused_and_a_scorer_without_order_in_one_arm_is() -> None:
    """+3.3 and +5.1 % were seen on a sound run: on either side of a bound, and both a sign of the order. What sees none rises by nothing."""
    rng = np.random.default_rng(1)
    sound = [judge_shuffled(arm_of(0.033, 3.0, rng), arm_of(0.06, 3.2, rng))[0] for _ in range(300)]
    assert sound.count("failed") <= 6  # one bound for both refused most of them
    for blind in (0.0, -0.02):
        spoilt = [judge_shuffled(arm_of(0.25, 3.2, rng), arm_of(blind, 3.0, rng))[0] for _ in range(300)]
        assert spoilt.count("failed") >= 285


# ---- a base in 4 bits ----


def test_a_base_in_four_bits_is_one_model_with_and_without_an_adapter_and_in_batches(tmp_path: Path) -> None:
    """Where bitsandbytes repacks weights in evaluation (CPUs with bfloat16 instructions) and PEFT unpacks them, base and base differed by
    0.04 nats, and batches from single rows by 0.005."""
    pytest.importorskip("bitsandbytes")
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    base = save_base(tmp_path / "base", tiny_llama(0, **shape))
    adapter = save_adapter(tmp_path / "adapter", tiny_llama(0, **shape))
    settings = Model(quantization="nf4", device="cpu", dtype="float32")
    found = check(Located("base", base), Located("adapter", adapter), settings)
    assert found.function is not None and found.function.off_base_nats == 0
    assert not found.function.off_is_another and (found.function.on_base_nats or 0) > 10 * found.function.noise_floor_nats
    assert [f.code for f in diagnose(Facts(found)) if f.status == "present"] == []
    pilot = batch_facts(load_base(Located("base", base), settings), [[256, 70, 71], [256, *range(60, 90)]], {257}, 256, 300)
    assert not pilot.alone and pilot.identical == pilot.prompts


def test_the_noise_of_another_shape_is_measured_and_ten_floors_are_a_difference() -> None:
    """A kernel that rounds by the length of its input is no shifted position: nothing is written one row at a time for it."""
    model, plain = tiny_llama(0), batch_facts(tiny_llama(0), [[256, 70], [256, *range(60, 90)]], {257}, 256, 300)
    assert plain.noise_floor_nats < 1e-4 and not plain.alone
    head = model.lm_head.forward
    model.lm_head.forward = lambda x: head(x) * (1 + 1e-3 * (x.shape[1] % 2))  # type: ignore[method-assign]
    rough = batch_facts(model, [[256, 70], [256, *range(60, 90)]], {257}, 256, 300)
    assert rough.largest_difference_nats > 1e-3 and rough.noise_floor_nats > 1e-3 and not rough.alone
    facts = FunctionFacts(3, 100, 0.0, 1e-7, 0.4, 0.4, off_base_nats=0.035, length_nats=0.006)
    assert not facts.off_is_another and dataclasses.replace(facts, length_nats=1e-6).off_is_another
