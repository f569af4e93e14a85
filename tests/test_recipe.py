"""The recipe: what it accepts, and the exact words with which it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galvan import recipe as recipes
from galvan.errors import EXIT_USAGE, RecipeError
from galvan.recipe import Recipe, commented, from_text, options, resolved

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


def refused(text: str, *settings: str) -> tuple[str, str]:
    with pytest.raises(RecipeError) as caught:
        from_text(text, "r.yaml", settings)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    return caught.value.code, str(caught.value)


# ---- what is accepted ----


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_every_example_is_a_recipe_and_survives_being_written_out(path: Path) -> None:
    asked = recipes.load(path)
    assert asked.name == path.stem
    assert from_text(resolved(asked)) == asked


def test_there_are_the_three_examples() -> None:
    assert [path.stem for path in EXAMPLES] == ["distilgpt2", "frankenstein", "origin"]


def test_origin_has_the_settings_of_the_run_that_galvan_began_with() -> None:
    asked = recipes.load(EXAMPLES[2])
    lora, training, split = asked.training.lora, asked.training, asked.data.split
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 16.0, 0.05, ["q_proj", "k_proj", "v_proj", "o_proj"])
    assert (training.method, training.learning_rate, training.batch_size, training.accumulation) == ("lora", 2e-4, 1, 16)
    assert (training.epochs, training.document_tokens, asked.data.document_tokens, asked.seed) == (1.0, 512, 512, 42)
    assert (asked.model.base, asked.model.quantization) == ("mistralai/Mistral-7B-Instruct-v0.2", "nf4")
    assert (split.by, split.validation + split.test) == ("random", 0.05)


def test_distilgpt2_has_the_settings_of_the_origins_fallback() -> None:
    asked = recipes.load(EXAMPLES[0])
    assert (asked.model.base, asked.model.device, asked.model.quantization) == ("distilbert/distilgpt2", "cpu", "none")
    assert (asked.training.method, asked.training.learning_rate, asked.training.batch_size) == ("full", 5e-5, 8)
    assert (asked.training.accumulation, asked.training.epochs, asked.training.document_tokens, asked.seed) == (1, 2.0, 512, 42)


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", "1.e-4", ".1e-3", "+1e-4", "10e-5"])
def test_a_learning_rate_may_be_written_in_any_usual_way(written: str) -> None:
    assert from_text(f"training: {{learning_rate: {written}}}").training.learning_rate == 1e-4
    assert from_text("", settings=[f"training.learning_rate={written}"]).training.learning_rate == 1e-4


def test_whole_numbers_are_decimal_and_serve_for_fractions() -> None:
    assert from_text("training: {epochs: 2, betas: [0, 0.99]}").training.betas == (0.0, 0.99)
    assert from_text("seed: 1_000").seed == 1000
    assert refused("seed: 010")[1].startswith("r.yaml line 1: `seed`: input should be a valid integer, got '010'.")
    assert refused("seed: 1:30")[1].startswith("r.yaml line 1: `seed`: input should be a valid integer, got '1:30'.")


def test_an_empty_recipe_is_the_default_one() -> None:
    assert from_text("") == from_text("# nothing\n") == Recipe()


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\r\nname: x\r\n")
    assert recipes.load(tmp_path / "r.yaml").seed == 7


def test_the_commented_recipe_is_the_default_and_holds_every_option_with_its_sentence() -> None:
    text = commented()
    assert from_text(text) == Recipe()
    flat = " ".join(text.replace("#", " ").split())
    for name, field in options():
        assert field.description, name
        assert " ".join(field.description.split()) in flat, name
        assert f"{name.rsplit('.', 1)[-1]}:" in text, name


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["1e5", "042", "1:30", "null", "yes", "~", "2024-01-01", "a: b", "*a", "!x", "\u202ex", "\x1b[m", "1e-4", ".5", "0x1f", "=", "<<", "é", "\ud800", "a\x85", "\u2028b"]))  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(NAMES, TEXTS, st.lists(TEXTS, max_size=3), st.floats(0, 1e300, exclude_min=True), st.integers(0, 2**31 - 1))
def test_a_resolved_recipe_reads_back_as_the_same(name: str, text: str, targets: list[str], rate: float, seed: int) -> None:
    asked = Recipe.model_validate(
        {"name": name, "seed": seed, "data": {"source": text}, "training": {"learning_rate": rate, "lora": {"targets": targets}}}
    )
    written = resolved(asked)
    assert from_text(written.encode("utf-8").decode("utf-8")) == asked


# ---- unknown keys ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "r.yaml line 1: there is no option `sed`; did you mean `seed`?"),
        ("seed: 1\n\ndat:\n  source: x", "r.yaml line 3: there is no option `dat`; did you mean `data`?"),
        ("trainig: {}", "r.yaml line 1: there is no option `trainig`; did you mean `training`?"),
        ("training:\n  epochs: 1\n  epoch: 2", "r.yaml line 3: there is no option `training.epoch`; did you mean `training.epochs`?"),
        ("training:\n  lora:\n    rnk: 2", "r.yaml line 3: there is no option `training.lora.rnk`; did you mean `training.lora.rank`?"),
        ("data: {split: {vaildation: 0.1}}", "r.yaml line 1: there is no option `data.split.vaildation`; did you mean `data.split.validation`?"),
        ("model:\n  epochs: 3", "r.yaml line 2: there is no option `model.epochs`; did you mean `training.epochs`?"),
        ("rank: 8", "r.yaml line 1: there is no option `rank`; did you mean `training.lora.rank`?"),
        ("lerning_rate: 8", "r.yaml line 1: there is no option `lerning_rate`; did you mean `training.learning_rate`?"),
        ("model:\n  document_tokens: 3", "r.yaml line 2: there is no option `model.document_tokens`; did you mean `data.document_tokens` or `training.document_tokens`?"),
        ("xyzzy: 1", "r.yaml line 1: there is no option `xyzzy`; see `galvan init` for all options."),
        ('"\\e[31m\\u202e": 1', "r.yaml line 1: there is no option `\\u001b[31m\\u202e`; see `galvan init` for all options."),
    ],
)  # fmt: skip
def test_an_unknown_option_is_named_with_its_line_and_what_was_meant(text: str, message: str) -> None:
    assert refused(text) == ("recipe/unknown-key", message)


# ---- wrong values ----


def described(name: str) -> str:
    return f"({dict(options())[name].description})"


@pytest.mark.parametrize(
    ("text", "line", "option", "problem"),
    [
        ("seed: x", 1, "seed", "input should be a valid integer, got 'x'."),
        ("seed: 1.5", 1, "seed", "input should be a valid integer, got 1.5."),
        ("seed: -1", 1, "seed", "input should be greater than or equal to 0, got -1."),
        ("seed: true", 1, "seed", "input should be a valid integer, got True."),
        ("data:\n  source: 5", 2, "data.source", "input should be a valid string, got 5."),
        ("data:\n  source:", 2, "data.source", "input should be a valid string, got None."),
        ("\n\nmodel:\n  dtype: fp16", 4, "model.dtype", "input should be 'auto', 'float32', 'bfloat16' or 'float16', got 'fp16'."),
        ("training:\n  learning_rate: 0", 2, "training.learning_rate", "input should be greater than 0, got 0."),
        ("training:\n  learning_rate: .inf", 2, "training.learning_rate", "input should be a finite number, got inf."),
        ("training:\n  epochs: .nan", 2, "training.epochs", "input should be a finite number, got nan."),
        ("training: {learn_eos: 1}", 1, "training.learn_eos", "input should be a valid boolean, got 1."),
        ("training:\n  betas: [0.9, 1.5]", 2, "training.betas", "input should be less than 1, got 1.5."),
        ("training:\n  lora:\n    targets: q_proj", 3, "training.lora.targets", "input should be a valid list, got 'q_proj'."),
        ("training:\n  lora:\n    targets: [q_proj, 5]", 3, "training.lora.targets", "input should be a valid string, got 5."),
        ("data: {split: {validation: 1.5}}", 1, "data.split.validation", "input should be less than or equal to 1, got 1.5."),
        ('data: {split: {by: "\\e]0;x\\a\\u202e"}}', 1, "data.split.by", "input should be 'block', 'group', 'stratified' or 'random', got '\\x1b]0;x\\x07\\u202e'."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_answered_with_line_value_and_meaning(text: str, line: int, option: str, problem: str) -> None:
    assert refused(text) == ("recipe/value", f"r.yaml line {line}: `{option}`: {problem} {described(option)}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: 5", "r.yaml line 1: `data` is a block of options, got 5."),
        ("seed: 1\ndata:\n", "r.yaml line 2: `data` is a block of options, got nothing."),
        ("training:\n  lora: [1]", "r.yaml line 2: `training.lora` is a block of options, got [1]."),
        ("data:\n  split: {validation: 0.5, test: 0.5}", "r.yaml line 2: `data.split`: validation 0.5 and test 0.5 leave nothing to train on."),
        ("training:\n  optimizer: muon", "r.yaml line 1: `training`: optimizer muon is for method full; an adapter's factors are trained with adamw."),
        ("1: 2", "r.yaml: the recipe: keys should be strings, got 1."),
    ],
)  # fmt: skip
def test_blocks_that_contradict_themselves_are_refused(text: str, message: str) -> None:
    assert refused(text) == ("recipe/value", message)


def test_a_name_that_would_leave_its_folder_is_refused() -> None:
    for name in ("../up", "a/b", ".hidden", "", "a b", "x" * 65):
        assert refused(f"name: {name!r}")[0] == "recipe/value"


# ---- YAML itself ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: a\nseed: 2", "r.yaml line 3: not readable as YAML: key `seed` is given twice."),
        ("data:\n\tsource: x", "r.yaml line 2: not readable as YAML: found character '\\t' that cannot start any token."),
        ("data: {source: x", "r.yaml line 1: not readable as YAML: expected ',' or '}', but got '<stream end>'."),
        ("? [a, b]\n: 3", "r.yaml line 1: not readable as YAML: a key must be a single word."),
        ("a: &x [1]\nb: *x", "r.yaml line 2: not readable as YAML: write the value out instead of the alias `*x`."),
        ("a: &x {<<: *x}", "r.yaml line 1: not readable as YAML: write the value out instead of the alias `*x`."),
        ("seed: 1\nname: a\0b", "r.yaml line 2: not readable as YAML: the character U+0000 may not stand in YAML."),
        ("seed: !!python/object/apply:os.system ['true']", "r.yaml line 1: not readable as YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'."),
        ("seed: 1\n---\nseed: 2", "r.yaml line 2: not readable as YAML: but found another document."),
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_read_is_one_sentence_with_its_line(text: str, message: str) -> None:
    assert refused(text) == ("recipe/yaml", message)


@pytest.mark.parametrize(("text", "kind"), [("- seed: 1", "list"), ("seed", "str"), ("5", "int")])
def test_a_recipe_is_a_mapping(text: str, kind: str) -> None:
    assert refused(text) == ("recipe/shape", f"r.yaml: a recipe is a YAML mapping of options, found {kind}.")


@pytest.mark.parametrize(
    "bomb",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
        "seed: " + "[" * 20_000,
        "{a: " * 20_000,
    ],
    ids=["laughs", "merges", "lists", "mappings"],
)
def test_a_yaml_bomb_is_refused_at_once(bomb: str) -> None:
    begun = time.monotonic()
    assert refused(bomb)[0] == "recipe/yaml"
    assert time.monotonic() - begun < 5


@settings(deadline=None)
@given(st.text(max_size=60))
def test_arbitrary_text_is_a_recipe_or_one_sentence(text: str) -> None:
    try:
        from_text(text, "r.yaml")
    except RecipeError as error:
        assert str(error).startswith("r.yaml")


# ---- files ----


def test_a_file_that_cannot_be_a_recipe_says_why(tmp_path: Path) -> None:
    def said(path: Path) -> tuple[str, str]:
        with pytest.raises(RecipeError) as caught:
            recipes.load(path)
        return caught.value.code, str(caught.value).replace(f"{tmp_path}/", "")

    (tmp_path / "binary.yaml").write_bytes(b"seed: 1\n\xff\xfe")
    (tmp_path / "book.yaml").write_bytes(b"x " * 40_000)
    (tmp_path / "folder").mkdir()
    assert said(tmp_path / "none.yaml") == ("recipe/missing", "There is no recipe none.yaml; `galvan init` writes one.")
    assert said(tmp_path / "folder") == ("recipe/missing", "folder is a folder; a recipe is a YAML file.")
    assert said(tmp_path / "binary.yaml") == (
        "recipe/unreadable",
        "binary.yaml line 2: byte 0xff is not UTF-8; a recipe is a YAML text.",
    )
    assert said(tmp_path / "book.yaml") == ("recipe/unreadable", "book.yaml is larger than 64 KiB; a recipe is a short YAML text.")
    assert said(tmp_path / "binary.yaml" / "x") == ("recipe/unreadable", "binary.yaml/x: cannot be read: Not a directory.")


# ---- --set ----


def test_set_wins_over_the_file_and_the_last_one_over_the_first() -> None:
    asked = from_text("seed: 1\ntraining: {epochs: 2}", settings=["seed=2", "seed=3", "training.lora.rank=4"])
    assert (asked.seed, asked.training.epochs, asked.training.lora.rank) == (3, 2.0, 4)


def test_set_takes_lists_blocks_and_null() -> None:
    settings = ["training.lora.targets=[q_proj, v_proj]", "data.split={by: random, test: 0.2}", "data.maximum_documents=null"]
    asked = from_text("data: {maximum_documents: 5}", settings=settings)
    assert asked.training.lora.targets == ["q_proj", "v_proj"]
    assert (asked.data.split.by, asked.data.split.test, asked.data.maximum_documents) == ("random", 0.2, None)


@pytest.mark.parametrize("name", ["2024", "null", "yes", "a: b.csv", "[x].csv", "a #b.csv", "*.csv", "@x", "a=b", "x'y"])
def test_set_takes_a_text_as_it_is(name: str) -> None:
    assert from_text("", settings=[f"data.source={name}"]).data.source == name


def test_set_takes_a_quoted_text_as_yaml_does() -> None:
    assert from_text("", settings=["data.source=' a '"]).data.source == " a "
    assert from_text("", settings=['data.source="\\u00e9"']).data.source == "é"


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("training.epoch=3", "unknown-key", "--set training.epoch=3: there is no option `training.epoch`; did you mean `training.epochs`?"),
        ("data.split={tset: 0.1}", "unknown-key", "--set data.split={tset: 0.1}: there is no option `data.split.tset`; did you mean `data.split.test`?"),
        ("seed", "set", "--set seed: write it as a.b=value."),
        ("=5", "set", "--set =5: write it as a.b=value."),
        ("seed.x=5", "set", "--set seed.x: `seed` is a value, not a block."),
        ("training=5", "value", "--set training=5: `training` is a block of options, got 5."),
        ("seed=[", "yaml", "--set seed=[ line 1: not readable as YAML: expected the node content, but found '<stream end>'."),
        ("\x1b[m.x=5", "unknown-key", "--set \\u001b[m.x=5: there is no option `\\u001b[m`; see `galvan init` for all options."),
    ],
)  # fmt: skip
def test_a_wrong_set_is_blamed_on_the_command_line_and_not_on_the_file(setting: str, code: str, message: str) -> None:
    assert refused("seed: 1\ntraining:\n  epochs: 3\n", setting) == (f"recipe/{code}", message)


def test_a_wrong_set_value_says_which_set() -> None:
    message = f"--set seed=x: `seed`: input should be a valid integer, got 'x'. {described('seed')}"
    assert refused("seed: 1", "training.epochs=2", "seed=x") == ("recipe/value", message)
