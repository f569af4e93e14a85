"""The measure that does not depend on the tokenizer (METHODS S3.3, S3.4, C3.2 to C3.4)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from galvan.statistics import bits_per_byte, comparable, paired_bits, paired_gain


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary_and_the_bits_that_follow():
    tokens, n_bytes = np.array([10, 20, 30, 40, 50]), np.array([45, 80, 130, 150, 220])
    nll = tokens * math.log(50_257)
    found = paired_gain(nll, nll * 1.1, tokens)
    assert found.base_perplexity == pytest.approx(50_257)
    assert bits_per_byte(nll, n_bytes).bits_per_byte == pytest.approx(math.log2(50_257) * 150 / 625)


def source(rng, n, length):
    """Texts of an order-0 byte source, and its entropy in bits a byte."""
    p = rng.dirichlet(np.full(40, 0.5))
    texts = [rng.choice(40, size=length, p=p) for _ in range(n)]
    return p, texts, float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def test_the_true_model_of_a_byte_source_reaches_its_entropy():
    rng = np.random.default_rng(0)
    p, texts, entropy = source(rng, 200, 500)
    found = bits_per_byte([-np.log(p[text]).sum() for text in texts], [500] * 200)
    assert found.bits_per_byte == pytest.approx(entropy, abs=0.02)
    assert found.ci95.low <= entropy <= found.ci95.high
    assert found.ci95.high - found.ci95.low < 0.05


def test_two_tokenizers_over_one_source_agree_in_bits_and_not_in_perplexity():
    rng = np.random.default_rng(1)
    p, texts, _ = source(rng, 100, 600)
    training = rng.choice(40, size=400_000, p=p)
    singles = np.bincount(training, minlength=40) + 0.5
    pairs = np.bincount(training[::2] * 40 + training[1::2], minlength=1600) + 0.5
    by_single = np.array([-np.log(singles[text] / singles.sum()).sum() for text in texts])
    by_pair = np.array([-np.log(pairs[text[::2] * 40 + text[1::2]] / pairs.sum()).sum() for text in texts])
    one, two = bits_per_byte(by_single, [600] * 100), bits_per_byte(by_pair, [600] * 100)
    assert one.bits_per_byte == pytest.approx(two.bits_per_byte, rel=0.005)
    perplexity_one, perplexity_two = math.exp(by_single.sum() / 60_000), math.exp(by_pair.sum() / 30_000)
    assert perplexity_two > 5 * perplexity_one


def test_gains_in_bits_and_nats_are_one_gain_where_tokens_are_shared():
    rng = np.random.default_rng(2)
    tokens = rng.integers(100, 300, 40)
    base = rng.normal(2, 0.3, 40) * tokens
    tuned = base - rng.normal(0.05, 0.05, 40) * tokens
    bits, nats = paired_bits(base, tuned, tokens), paired_gain(base, tuned, tokens)  # one byte a token
    assert bits.bits_per_byte * math.log(2) == pytest.approx(nats.nats_per_token)
    assert bits.se * math.log(2) == pytest.approx(nats.se)
    assert bits.verdict == nats.verdict == "improved"
    assert bits.base_bits_per_byte - bits.tuned_bits_per_byte == pytest.approx(bits.bits_per_byte)


def test_without_a_margin_in_bits_equivalence_is_never_claimed():
    rng = np.random.default_rng(3)
    sizes = np.full(400, 1000.0)
    base = 1.0 * sizes
    tuned = base - rng.normal(0, 0.001, 400) * sizes
    assert paired_bits(base, tuned, sizes).verdict == "inconclusive"
    assert paired_bits(base, tuned, sizes, margin_bits=0.01).verdict == "equivalent"


def test_different_tokenizers_show_bits_only():
    assert comparable("aa", "aa").token_perplexity
    different = comparable("aa", "bb")
    assert not different.token_perplexity and different.bits_per_byte and "not comparable" in different.reason
