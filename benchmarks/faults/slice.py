"""The part of the benchmark that runs in `make test`: one setting, no pre-training of a second base, the cheapest case of many rows."""

SLICE = frozenset({
    "base-by-its-old-name", "merged-into-the-base", "adapter-disabled", "tuned-is-the-base", "keys-without-prefix", "compiled-keys",
    "empty-file", "zero-size-tensors", "fresh-adapter-saved", "get-peft-model-for-loading", "alpha-zero", "alpha-missing", "not-a-number",
    "adapter-frozen", "collator-masks-all", "mean-of-perplexities", "off-by-one", "cached-scores", "fresh-adapter-in-the-base",
    "healthy-live", "healthy-evaluated",
})  # fmt: skip
