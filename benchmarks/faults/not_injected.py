"""Rows of the catalogue that the benchmark does not put in, each with the reason; docs/diagnosis.md shows them."""

NOT_INJECTED = {
    "D08": "Offloading and ZeRO need DeepSpeed and several devices. What they leave (zeros beside shards) is tried on files in tests/diagnosis.",
    "G12": "Perplexity that rises while texts become better is no fault that can be put in: it needs a model whose texts do become better.",
    "I03": "A recipe whose seeds disagree lies at the edge of divergence and has to be searched for anew in each setting, by dozens of trainings.",
}
