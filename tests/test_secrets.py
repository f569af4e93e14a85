"""Access tokens: those of the environment and those that stand in a recipe, a name or a corpus reach no file of a run, no log and no report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galvan import recipe
from galvan.data.clean import SECRETS, Log, clean
from galvan.data.rows import Row
from galvan.errors import EXIT_USAGE, RecipeError
from galvan.payload import Chat, Pair
from galvan.rundir import to_json
from galvan.text import SECRET, has_secret, shown
from processes import galvan
from test_resume import make_inputs

KEY = "-----BEGIN RSA PRIVATE KEY-----\nTUlJRXBBSUJBQUtDQVFFQXRlc3Q=\n-----END RSA PRIVATE KEY-----"
CANARIES = [  # of the right shape and made up; put together here, so that no scanner takes this file for a leak
    "hf_" + "CaNaRy" * 6, "api_org_" + "CaNaRy" * 6, "sk-" + "proj-CaNaRy7" * 3, "ghp_" + "CaNaRy" * 6, "github_pat_" + "CaNaRy_" * 8, "glpat-" + "CaNaRy-" * 4,
    "xoxb-" + "1234567890-CaNaRy", "AKIA" + "CANARYCANARY1234", "AIza" + "CaNaRy0" * 5, "npm_" + "CaNaRy" * 6, "pypi-" + "CaNaRy" * 10, KEY,
    "gsk_" + "CaNaRy" * 9, "r8_" + "CaNaRy" * 7, "sk_live_" + "CaNaRy" * 4, "wandb_v1_" + "CaNaRy" * 8, "nvapi-" + "CaNaRy" * 10,
    "eyJ" + "CaNaRyCaNaRy." + "eyJ" + "CaNaRyCaNaRy." + "CaNaRyCaNaRy", KEY.replace("KEY", "KEY BLOCK"),
]  # fmt: skip
MARKS = ("CaNaRy", "CANARYCANARY", "TUlJRXBB")


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary[:8])
def test_every_kind_of_token_is_removed_from_what_people_and_files_get(canary: str) -> None:
    for text in (canary, f"token: {canary}.", f'url = "https://me:{canary}@hub.example"', f"\x1b[31m{canary}\x1b[0m"):
        assert has_secret(text)
        for said in (shown(text), to_json({"a": [text]}), to_json({text: 1})):
            assert SECRET in said and not any(mark in said for mark in MARKS)
    assert json.loads(to_json({"a": f"x {canary} y"})) == {"a": f"x {SECRET} y"}


@pytest.mark.parametrize("between", ["\u200b", "\u200d", "\x00", "\x1b", "\u202e", "\ufe0f", "\U000e0041"])
def test_a_character_that_nobody_sees_does_not_carry_a_token_past(between: str) -> None:
    hidden = between.join(CANARIES[0])
    document = [] if between < " " else [to_json({"a": f"a {hidden} b", hidden: 1})]  # json.dumps has already spelled out those
    for said in (shown(f"a {hidden} b"), *document):
        assert SECRET in said and "y" not in said


def test_a_token_in_the_name_of_a_source_or_group_is_removed() -> None:
    log = Log()
    (kept,) = clean([Row("fine", f"letters of {CANARIES[0]}", 1, "f line 1", group=CANARIES[3])], log)
    assert (kept.text, kept.source, kept.group) == ("fine", f"letters of {SECRET}", SECRET) and log.changed[SECRETS].count == 1


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_text_without_a_token_is_not_touched(text: str) -> None:
    if not has_secret(text):
        assert json.loads(to_json([text])) == [text]


def test_prose_that_looks_a_little_like_a_token_stays() -> None:
    for prose in ("a task-oriented risk-averse desk-bound clerk of long-standing-and-honourable-reputation", "hf_short", "AKIA is not a key", "the words PRIVATE KEY in a sentence", "npm_config"):  # fmt: skip
        assert shown(prose) == prose and not has_secret(prose)


@pytest.mark.parametrize(
    "setting", ["name={}", "data.source=https://me:{}@hub.example/x.csv", "model.base={}/x", "generation.prompts=[a, '{}']"]
)
def test_a_token_in_a_recipe_or_a_name_is_refused_and_not_repeated(setting: str, tmp_path: Path) -> None:
    said = setting.format(CANARIES[0])
    with pytest.raises(RecipeError) as refused:
        recipe.from_text("seed: 1", "recipe.yaml", [said])
    assert (refused.value.code, refused.value.exit_code) == ("recipe/secret", EXIT_USAGE)
    assert setting.partition("=")[0] in str(refused.value) and "CaNaRy" not in str(refused.value)


def test_a_token_as_an_option_is_refused_and_not_repeated() -> None:
    with pytest.raises(RecipeError) as refused:
        recipe.from_text(f"training:\n  {CANARIES[0]}: 1\n")
    assert refused.value.code == "recipe/secret" and "CaNaRy" not in str(refused.value)


def test_tokens_in_prompts_conversations_and_tools_are_removed_and_counted() -> None:
    log = Log()
    rows = [
        Row("yes", "s", 1, "f line 1", payload=Pair(f"my token is {CANARIES[0]}", "yes")),
        Row("no", "s", 2, "f line 2", payload=Chat(({"role": "user", "content": [{"type": "text", "text": CANARIES[3]}]}, {"role": "assistant", "content": "no"}), ({"name": CANARIES[2]},))),
        Row(f"a {CANARIES[0][:6]}\u200b{CANARIES[0][6:]} b", "s", 3, "f line 3"),
        Row("nothing here", "s", 4, "f line 4"),
    ]  # fmt: skip
    kept = list(clean(rows, log))
    assert [row.text for row in kept] == ["yes", "no", f"a {SECRET} b", "nothing here"]
    assert "CaNaRy" not in repr(kept) + to_json(log) and log.changed[SECRETS].count == 3


def texts_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder as text; of a parquet its values, which are compressed."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield str(path.relative_to(folder)), repr(pq.read_table(path).to_pylist())


def leaks(folder: Path) -> list[str]:
    return sorted({name for name, text in texts_of(folder) if any(mark in text for mark in MARKS)})


def test_no_token_of_a_corpus_or_the_environment_is_in_any_file_of_a_run(tmp_path: Path) -> None:
    place = make_inputs(tmp_path / "w")
    rows = [
        {"text": f"Letter {n * 37 % 101}: on day {n} it was still, {CANARIES[n % len(CANARIES)]} and I waited {n * n % 13} hours.", "source": f"book {n // 4}"}
        for n in range(40)
    ]  # fmt: skip
    (place / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    secret = {"HF_TOKEN": CANARIES[0], "OPENAI_API_KEY": CANARIES[2], "GALVAN_APP_PASSWORD": CANARIES[3]}
    small = ("--set", "training.epochs=1", "--set", "generation.documents=4", "--set", "generation.max_new_tokens=8")
    done = galvan("run", "recipe.yaml", "--set", "data.source=tokens.jsonl", *small, cwd=place, env=secret)
    assert done.code in (0, 1, 6), done.err
    assert leaks(place / "runs") == [] and not any(mark in done.out + done.err for mark in MARKS)
    audit = json.loads((place / "runs/small/audit.json").read_text())
    assert audit["changed"][SECRETS]["count"] == 40 and "data/secrets" in json.dumps(audit["warnings"])
    assert leaks(place) == ["tokens.jsonl"]  # the watch sees them where they are
