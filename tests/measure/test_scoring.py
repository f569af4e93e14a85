"""Scores against a naive loop and against lm-eval, the rules of METHODS topic 3, and the controls."""

from __future__ import annotations

import functools
import math
from array import array
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from galvan.errors import DataError
from galvan.measure import scoring
from galvan.measure.arms import randomize, score_arms
from galvan.measure.bench import Bench
from galvan.measure.kept import Kept
from galvan.measure.scoring import SCHEMA, Score, not_reproduced, score, scoring_rule, text_facts, write_scores
from galvan.models import Choice, Located
from galvan.payload import Pair
from galvan.progress import Silent
from galvan.recipe import from_text
from galvan.rundir import Document
from galvan.statistics.windows import rolling_windows
from galvan.training.loop import train
from galvan.training.pace import Pace
from models_for_tests import _SHAPE, byte_tokenizer, save_base, tiny_gpt2, tiny_llama, tiny_mistral, wrap

WITH, WITHOUT = byte_tokenizer(), byte_tokenizer(bos=False)
PROSE = (
    "It was on a dreary night of November that the lamp burned low.",
    "\u201cWho is there?\u201d she asked; nobody answered. A caf\u00e9, na\u00efve and half-empty, stood open till ten.",
    "No.",
    "The storm passed over the lake in the night, and in the morning the water lay so still that the hills stood in it upside down. "
    * 2,
    "I wrote to her again; no answer came.",
)
DOCUMENTS = [Document(f"d{i}", text, "book", i) for i, text in enumerate(PROSE)]
LLAMA = tiny_llama()


def scores(model=LLAMA, tokenizer=WITH, documents=DOCUMENTS, context_tokens=512, **more):
    return score(model, tokenizer, documents, "base", "test", context_tokens, **more)


def longest_difference(a, b):
    return max(np.abs(np.subtract(x.token_nll_nats, y.token_nll_nats)).max() for x, y in zip(a, b, strict=True))


def naive(model, ids):
    """One document, one forward pass, no batching, no windows, no chunks; float64 log-softmax of the logits."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        log_probabilities = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return -log_probabilities.gather(1, ids[0, 1:, None])[:, 0].numpy()


# ---- beside a naive loop and lm-eval ----


@pytest.mark.parametrize(
    ("model", "tokenizer"), [(LLAMA, WITH), (tiny_mistral(), WITH), (tiny_gpt2(), WITHOUT)], ids=["llama", "mistral", "gpt2"]
)
def test_scores_agree_with_a_naive_loop_over_documents(model, tokenizer):
    documents = [d for d in DOCUMENTS if d.n_bytes < 250]  # as many positions as GPT-2 has learned
    for document, mine in zip(documents, scores(model, tokenizer, documents), strict=True):
        theirs = naive(model, tokenizer(document.text)["input_ids"])
        assert mine.n_tokens == len(theirs) == len(mine.token_nll_nats)
        assert abs(mine.nll_nats - theirs.sum()) / len(theirs) < 1e-6
        assert np.abs(mine.token_nll_nats - theirs).max() < 1e-5


def lm_eval_sums(model, tokenizer, texts, max_length):
    """Sums of rolling NLLs as lm-eval gives them, its own BOS switched off.

    With a tokenizer that adds BOS, HFLM puts BOS in front as prefix *and* encodes it as the text's first token, and so scores one
    token a document more than there is. add_bos_token=False leaves the prefix alone, and both count the tokens of the text.
    """
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    judge = huggingface.HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", max_length=max_length, batch_size=1, add_bos_token=False
    )
    return [-value for value in judge.loglikelihood_rolling([SimpleNamespace(args=(text,)) for text in texts], disable_tqdm=True)]


def test_scores_agree_with_lm_evals_rolling_log_likelihood():
    mine = [row.nll_nats for row in scores()]
    assert mine == pytest.approx(lm_eval_sums(LLAMA, WITH, PROSE, 300), rel=1e-4)


@pytest.mark.parametrize("overlap", [1, 16])
def test_scores_of_documents_longer_than_the_window_agree_with_lm_eval(monkeypatch, overlap):
    # Ours is half a window of overlap; HFLM fixes it at one token. Each side is asked for the other's once.
    # context_tokens counts every id that the model is fed, so 33 of them predict 32: lm-eval's max_length.
    utils = pytest.importorskip("lm_eval.utils")
    if overlap == 1:
        monkeypatch.setattr(scoring, "rolling_windows", functools.partial(rolling_windows, context=1))
    else:
        theirs = utils.get_rolling_token_windows
        monkeypatch.setattr(utils, "get_rolling_token_windows", lambda **arguments: theirs(**(arguments | {"context_len": 16})))
    mine = [row.nll_nats for row in scores(context_tokens=33)]
    assert mine == pytest.approx(lm_eval_sums(LLAMA, WITH, PROSE, 32), rel=1e-4)
    assert sum(mine) != pytest.approx(sum(r.nll_nats for r in scores()), rel=1e-4)


def test_scores_without_bos_agree_with_lm_eval_given_the_first_token_as_prefix():
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    model, documents = tiny_gpt2(), [d for d in DOCUMENTS if d.text.isascii() and d.n_bytes < 250]
    for document, mine in zip(documents, scores(model, WITHOUT, documents), strict=True):
        first = WITHOUT(document.text)["input_ids"][0]
        judge = huggingface.HFLM(
            pretrained=model, tokenizer=WITHOUT, backend="causal", max_length=255, batch_size=1, prefix_token_id=first
        )
        (theirs,) = judge.loglikelihood_rolling([SimpleNamespace(args=(document.text[1:],))], disable_tqdm=True)
        assert mine.nll_nats == pytest.approx(-theirs, rel=1e-4)


# ---- every token once, whatever the passes ----


@pytest.mark.parametrize("context_tokens", [2, 3, 8, 9, 512])
@pytest.mark.parametrize("tokenizer", [WITH, WITHOUT], ids=["bos", "no bos"])
@pytest.mark.parametrize("unpadded", [True, False], ids=["end to end", "padded"])
def test_every_token_is_predicted_exactly_once_and_in_its_place(monkeypatch, context_tokens, tokenizer, unpadded):
    written, passed, told = [], [], []

    def codes(model, ids, chunked, positions=None):
        """In place of likelihoods, what each would be of: the id itself."""
        passed.append(ids.shape[1])
        assert (ids.shape[1] if positions is None else int(positions.max()) + 1) <= context_tokens
        return ids[:, 1:].float()

    class Counts(Silent):
        def start(self, label, total, unit):
            written.append(-total)

        def advance(self, amount, note=""):
            written.append(amount)

    monkeypatch.setattr(scoring, "supports_unpadded", lambda model, chunked, learns: unpadded)
    monkeypatch.setattr(scoring, "token_nll", codes)
    monkeypatch.setattr(Pace, "step", lambda self, seconds, tokens: told.append(tokens))
    for document, row in zip(DOCUMENTS, scores(tokenizer=tokenizer, context_tokens=context_tokens, progress=Counts()), strict=True):
        assert list(row.token_nll_nats) == tokenizer(document.text)["input_ids"][1:]
    assert sum(written) == 0  # as many as were announced, so none twice
    assert told == passed if unpadded else len(told) == len(passed)  # the pace is that of what was computed


def test_no_pass_holds_more_tokens_than_it_may_unless_one_window_does(monkeypatch):
    longest, passed, right = max(len(WITH(text)["input_ids"]) for text in PROSE), [], scoring.token_nll
    monkeypatch.setattr(scoring, "token_nll", lambda model, ids, *rest: passed.append(ids.numel()) or right(model, ids, *rest))
    scores(tokens_per_pass=150)
    assert longest > 150 and max(passed) == longest and sorted(passed)[-2] <= 150 and len(passed) < len(PROSE)


def test_a_model_whose_documents_cannot_lie_end_to_end_is_scored_in_padded_rows():
    """Attention of its own, with a soft cap that the way without padding does not know."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**{**_SHAPE, "initializer_range": 0.5}, head_dim=8, attn_logit_softcapping=2.0)).eval()
    for document, mine in zip(DOCUMENTS, scores(model), strict=True):
        assert np.abs(mine.token_nll_nats - naive(model, WITH(document.text)["input_ids"])).max() < 1e-4


def test_what_is_scored_is_said_in_words():
    plain, shaped = Document("a", "No.", "s", 0), Document("b", "No.", "s", 0, payload=Pair("Say no.", "No."))
    assert scoring_rule([plain]) == "every token of the text"
    assert scoring_rule([shaped]) == "tokens of the completion only"
    assert scoring_rule([shaped, plain]) == "tokens of the completion only, of plain texts every token"


@pytest.mark.parametrize("context_tokens", [40, 512])
@pytest.mark.parametrize("tokens_per_pass", [16, 100, 100_000])
def test_passes_do_not_change_scores(context_tokens, tokens_per_pass):
    usual = scores(context_tokens=context_tokens)
    other = scores(context_tokens=context_tokens, tokens_per_pass=tokens_per_pass)
    assert longest_difference(usual, other) < 1e-5


@pytest.mark.parametrize("context_tokens", [40, 512])
def test_neighbours_and_order_do_not_change_scores(context_tokens):
    usual = scores(context_tokens=context_tokens)
    turned = scores(context_tokens=context_tokens, documents=DOCUMENTS[::-1])
    alone = [scores(context_tokens=context_tokens, documents=[d])[0] for d in DOCUMENTS]
    assert [row.document for row in turned] == [d.id for d in DOCUMENTS[::-1]]
    assert longest_difference(usual, turned[::-1]) < 1e-5
    assert longest_difference(usual, alone) < 1e-5


def test_a_token_behind_the_first_window_sees_at_least_half_a_window_of_text():
    # 33 ids at once predict 32 tokens, 1 to 32; the second window predicts 17 more, 33 to 49, and so feeds ids 17 to 49.
    ids = WITH(PROSE[0])["input_ids"]
    (row,) = scores(documents=DOCUMENTS[:1], context_tokens=33)
    window = torch.tensor([ids[17:41]])
    with torch.no_grad():
        expected = -LLAMA(input_ids=window).logits[0, -2].log_softmax(-1)[ids[40]].item()
    assert row.token_nll_nats[39] == pytest.approx(expected, abs=1e-5)


def test_scoring_is_in_evaluation_mode_and_puts_the_mode_back():
    model = wrap(tiny_llama(), lora_dropout=0.5)
    model.eval()
    expected = scores(model)
    model.train()
    assert longest_difference(scores(model), expected) == 0 and model.training


# ---- rules of counting ----


def test_a_uniform_model_has_a_perplexity_of_the_vocabulary_and_log2_of_it_bits_a_token():
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for document, row in zip(DOCUMENTS, scores(model), strict=True):
        assert math.exp(row.nll_nats / row.n_tokens) == pytest.approx(300, rel=1e-6)
        bits_per_byte = row.nll_nats / math.log(2) / row.n_bytes
        assert bits_per_byte == pytest.approx(math.log2(300) * row.n_tokens / len(document.text.encode()), rel=1e-6)


def test_with_bos_every_byte_of_the_text_is_counted_and_without_the_first_tokens_are_not():
    for document, with_bos, without in zip(DOCUMENTS, scores(), scores(tokenizer=WITHOUT), strict=True):
        assert with_bos.n_tokens == with_bos.n_bytes == len(document.text.encode())
        # One id a byte: also where the first is a third of a quotation mark, which alone decodes to something of three bytes.
        assert without.n_tokens == without.n_bytes == len(document.text.encode()) - 1


def test_the_end_is_kept_apart_from_the_text():
    usual, with_end = scores(), scores(score_eos=True)
    for document, a, b in zip(DOCUMENTS, usual, with_end, strict=True):
        assert a.eos_nll_nats is None and (a.n_tokens, a.n_bytes) == (b.n_tokens, b.n_bytes)
        assert b.nll_nats == pytest.approx(a.nll_nats, abs=1e-4)
        assert b.eos_nll_nats == pytest.approx(naive(LLAMA, [*WITH(document.text)["input_ids"], 257])[-1], abs=1e-5)


def test_a_document_with_nothing_to_score_is_refused_by_name():
    with pytest.raises(DataError, match="Document empty has no token that could be scored") as caught:
        scores(documents=[*DOCUMENTS, Document("empty", "", "book", 9)], score_eos=True)
    assert caught.value.code == "data/too-short"
    with pytest.raises(DataError, match="Document letter"):
        scores(tokenizer=WITHOUT, documents=[Document("letter", "x", "book", 9)])
    assert scores(documents=[Document("letter", "x", "book", 9)])[0].n_tokens == 1


def test_no_documents_give_no_scores():
    assert scores(documents=[]) == []


def test_the_sum_of_a_document_is_the_sum_of_its_tokens():
    for row in scores():
        assert row.nll_nats == pytest.approx(sum(row.token_nll_nats), rel=1e-12)


def test_texts_that_a_tokenizer_changes_are_named(monkeypatch):
    assert not_reproduced(WITH, DOCUMENTS) == []
    from tokenizers import normalizers

    lower = byte_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert not_reproduced(lower, [Document("a", "small", "b", 0), Document("b", "Large", "b", 1)]) == ["b"]
    monkeypatch.setattr(scoring, "BLOCK", 16)
    facts = text_facts(lower, [Document(str(n), "Large" if n % 2 else "small", "b", n) for n in range(50)], 128)
    assert facts.n_not_reproduced == 25 and facts.not_reproduced == tuple(str(n) for n in range(1, 40, 2))


def test_the_share_of_tokens_with_little_before_them_is_that_of_all_texts_together():
    # Byte tokens after BOS: token k of a text sees k tokens. 100 tokens: 63 see fewer than 64; 20 tokens: all do.
    texts = [Document("long", "x" * 100, "b", 0), Document("short", "y" * 20, "b", 1)]
    assert text_facts(WITH, texts, 512).little_context_share == pytest.approx((63 + 20) / 120)
    assert text_facts(WITH, [], 512).little_context_share is None
    pair = Document("pair", "x" * 190, "b", 0, payload=Pair("p" * 10, "x" * 190))
    assert text_facts(WITH, [pair], 512).little_context_share == pytest.approx(63 / 200)  # no end-of-text token behind it
    # Windows of 101 tokens: 63 tokens of the first see fewer than 64; the second begins at 51 and counts from 101 on, which sees 50,
    # to 151: 14; the third begins at 99 and counts from 152 on, which sees 53: 11.
    assert text_facts(WITH, [Document("long", "x" * 199, "b", 0)], 101).little_context_share == pytest.approx((63 + 14 + 11) / 199)


def test_scores_come_back_from_parquet_as_they_were_with_the_exact_schema(tmp_path):
    rows = [*scores(score_eos=True), *scores(tokenizer=WITHOUT)]
    write_scores(tmp_path / "scores.parquet", rows)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.schema.equals(SCHEMA)
    assert [(f.name, f.type) for f in table.schema] == [
        ("arm", pa.string()), ("document", pa.string()), ("source", pa.string()), ("position", pa.int64()), ("split", pa.string()),
        ("n_tokens", pa.int64()), ("n_bytes", pa.int64()), ("nll_nats", pa.float64()), ("token_nll_nats", pa.list_(pa.field("element", pa.float32()))),
        ("eos_nll_nats", pa.float64()),
    ]  # fmt: skip
    assert [Score(**row | {"token_nll_nats": array("f", row["token_nll_nats"])}) for row in table.to_pylist()] == rows


# ---- arms and controls ----


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """A base that has learned a little prose, an adapter trained from it, and all their scores."""
    from galvan.data.tokens import training_rows
    from galvan.models import add_lora, load_base
    from galvan.recipe import Lora, Model, Training

    folder = tmp_path_factory.mktemp("arms")
    rows = training_rows(WITH, DOCUMENTS, 256, True)
    base = tiny_llama()
    usual = {"learning_rate": 1e-2, "batch_size": 5, "epochs": 20.0, "evaluations": 1}
    train(base, rows, Training.model_validate(usual | {"method": "full"}), 0, folder / "base-work")
    save_base(folder / "base", base)
    located = Located("tiny", folder / "base")
    lora = add_lora(load_base(located, Model()), Lora(), "tiny", None, 0)
    train(lora, rows, Training.model_validate(usual | {"epochs": 10.0}), 0, folder / "work")
    lora.save_pretrained(folder / "adapter", save_embedding_layers=False)
    save_base(folder / "full", lora.merge_and_unload())
    recipe = from_text("", "test", [f"model.base={folder / 'base'}"])

    def scored(tuned, documents):
        device, dtype = Choice("cpu", ""), Choice("float32", "")
        return list(
            score_arms(
                Bench(located, recipe.model, device, dtype),
                Located("tuned", folder / tuned),
                recipe,
                WITH,
                documents,
                256,
                3,
                Silent(),
            )
        )

    return scored, scored("adapter", {"test": DOCUMENTS, "train": DOCUMENTS[:2]}), base


def of(rows, arm, split="test"):
    return [row for row in rows if (row.arm, row.split) == (arm, split)]


def test_both_arms_have_every_document_of_every_split_and_controls_some_of_the_test(arms):
    rows = arms[1]
    for arm in ("base", "tuned"):
        assert [row.document for row in of(rows, arm)] == [d.id for d in DOCUMENTS]
        assert [row.document for row in of(rows, arm, "train")] == ["d0", "d1"]
    for arm in ("base_again", "zero_adapter", "random_b"):
        assert [row.document for row in of(rows, arm)] == ["d0", "d1", "d2"] and not of(rows, arm, "train")


def test_the_base_of_record_is_the_base_alone(arms):
    _, rows, base = arms
    assert longest_difference(of(rows, "base"), scores(base, context_tokens=256)) < 1e-6


def test_the_base_scored_again_is_equal_and_an_adapter_of_zero_within_noise(arms):
    rows = arms[1]
    for row, again in zip(of(rows, "base")[:3], of(rows, "base_again"), strict=True):
        assert again.nll_nats == pytest.approx(row.nll_nats, rel=1e-6)
    assert longest_difference(of(rows, "base_again"), of(rows, "zero_adapter")) < 1e-5


def test_the_tuned_arm_is_another_model_and_better_on_what_it_learned(arms):
    rows = arms[1]
    assert sum(row.nll_nats for row in of(rows, "tuned")) < sum(row.nll_nats for row in of(rows, "base")) - 1


def test_an_adapter_of_noise_does_harm(arms):
    rows = arms[1]
    for row, noise in zip(of(rows, "base_again"), of(rows, "random_b"), strict=True):
        assert noise.nll_nats > 1.2 * row.nll_nats


def test_the_order_of_splits_and_documents_leaves_the_base_of_record_untouched(arms):
    scored, rows, _ = arms
    turned = scored("adapter", {"train": DOCUMENTS[:2], "test": DOCUMENTS[::-1]})
    for arm in ("base", "tuned"):
        assert longest_difference(of(rows, arm), of(turned, arm)[::-1]) < 1e-5


def test_a_whole_tuned_model_is_scored_like_the_adapter_merged_into_it(arms):
    scored, rows, _ = arms
    full = scored("full", {"test": DOCUMENTS})
    assert {row.arm for row in full} == {"base", "base_again", "tuned"}
    assert longest_difference(of(full, "tuned"), of(rows, "tuned")) < 1e-3
    assert longest_difference(of(full, "base"), of(rows, "base")) < 1e-5


def test_the_random_update_has_half_the_norm_of_every_weight_it_is_added_to():
    model = wrap(tiny_llama())
    randomize(model, 0)
    for layer in (m for m in model.modules() if hasattr(m, "lora_B") and "default" in m.lora_B):
        update = layer.get_delta_weight("default").norm()
        assert update.item() == pytest.approx(0.5 * layer.get_base_layer().weight.norm().item(), rel=1e-4)


# ---- a machine that something else keeps busy ----


class Said(Silent):
    def __init__(self):
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


@pytest.mark.parametrize(("seconds", "says"), [(2.0, False), (5.0, True)])
def test_passes_that_suddenly_take_far_longer_are_said_and_change_no_score(monkeypatch, seconds, says):
    clock, taken = [0.0], []

    def slowed(*args):
        taken.append(1)
        clock[0] += 1.0 if len(taken) <= 10 else seconds
        return plain(*args)

    documents = [Document(f"d{i}", PROSE[0], "book", i) for i in range(16)]
    expected, plain, heard, threads = scores(documents=documents), scoring._window_nll, Said(), torch.get_num_threads()
    monkeypatch.setattr(scoring, "_window_nll", slowed)
    monkeypatch.setattr(scoring.time, "monotonic", lambda: clock[0])
    found = scores(documents=documents, tokens_per_pass=len(PROSE[0]), progress=heard)
    assert len(taken) == 16 and torch.get_num_threads() == threads and longest_difference(found, expected) < 1e-5
    assert heard.said == (["Passes take 5.0 times as long as before: something else keeps this machine busy."] if says else [])


# ---- killed while it scores ----


def scored_with(folder, identity, monkeypatch, ends_at=None):
    """All rows, and how many documents were scored for them; the process dies at block `ends_at`."""
    blocks, plain = [], scoring._sequence_nll

    def counted(model, sequences, *more):
        if len(blocks) == ends_at:
            raise KeyboardInterrupt
        blocks.append(len(sequences))
        return plain(model, sequences, *more)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "BLOCK", 2)
        patch.setattr(scoring, "_sequence_nll", counted)
        kept = Kept(folder, identity)
        try:
            return list(scoring.scores(LLAMA, WITH, DOCUMENTS, "base", "test", 512, kept=kept)), sum(blocks)
        except KeyboardInterrupt:
            return [], sum(blocks)


def test_a_killed_scoring_loses_the_block_it_was_at_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    undisturbed, n = scored_with(tmp_path / "whole", "a", monkeypatch)
    assert n == 5
    assert scored_with(tmp_path / "killed", "a", monkeypatch, ends_at=2) == ([], 4)
    resumed, n = scored_with(tmp_path / "killed", "a", monkeypatch)
    assert n == 1
    for name, rows in (("a", undisturbed), ("b", resumed)):
        write_scores(tmp_path / f"{name}.parquet", rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_blocks_of_other_scores_and_damaged_blocks_are_not_taken(tmp_path, monkeypatch):
    rows, _ = scored_with(tmp_path, "a", monkeypatch)
    damaged = next(tmp_path.glob("*/000002.parquet"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4] ^= 1  # in a page of values: only its checksum sees it
    damaged.write_bytes(content)
    assert scored_with(tmp_path, "a", monkeypatch) == (rows, 2)
    assert scored_with(tmp_path, "b", monkeypatch) == (rows, 5)
    assert len(list(tmp_path.iterdir())) == 1
