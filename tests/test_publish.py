"""Model card and publication: what the card says is what the files say, its program runs, and nothing travels that was not named."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from galvan import cli
from galvan.compare import read_scores
from galvan.errors import ComparisonRefused, GateNotMet, ModelError, RecipeError, ResourceError
from galvan.publish import MANIFEST, publish
from galvan.report import Judged, judge
from galvan.report.card import Asked, card, cost
from galvan.report.names import without_paths
from galvan.rundir import read_json, sha256_file, write_json
from hub_server import Hub, serving
from synthetic import VARIANTS, Plan, make

SECRET = "hf_" + "s" * 34


def run_with_adapter(folder: Path, plan: Plan | str = "improved", base: str | None = None) -> Path:
    """A synthetic run with weights of its own, as `galvan run` leaves them; `base` is the name in its files."""
    from models_for_tests import save_adapter, tiny_mistral

    make(folder, plan if isinstance(plan, Plan) else VARIANTS[plan])
    save_adapter(folder / "adapter", tiny_mistral(0))
    origin = read_json(folder / "provenance.json") | {"adapter": "adapter", "adapter_sha256": sha256_file(folder / "adapter" / "adapter_model.safetensors")}  # fmt: skip
    config = folder / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"base_model_name_or_path": base or "galvan/spark"})
    write_json(folder / "provenance.json", origin | ({"base": base} if base else {}))
    return folder


def card_of(folder: Path, **asked: Any) -> str:
    judged = judged_once(folder)
    return card(folder, judged.evidence, judged.verdict, Asked(**asked))


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def program(text: str) -> str:
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def improved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_with_adapter(tmp_path_factory.mktemp("improved") / "run")


@pytest.fixture
def once(improved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The improved run, judged already: a test of where files go need not judge it again."""
    known = judged_once(improved)
    monkeypatch.setattr("galvan.publish.judge", lambda run: known)
    return improved


@functools.cache
def judged_once(folder: Path) -> Judged:
    return judge(folder)


# ---- the card ----


def test_the_model_index_holds_the_figures_of_the_files_with_their_intervals(improved: Path) -> None:
    found = head(card_of(improved))
    fit = read_json(improved / "verdict.json")["fit"]
    metrics = {m["type"]: m for r in found["model-index"][0]["results"] for m in r["metrics"]}
    gain = metrics["gain_nats_per_token"]
    assert gain["value"] == pytest.approx(fit["gain"]["nats_per_token"], rel=1e-5)
    assert gain["args"]["ci95"] == pytest.approx(fit["gain"]["ci95"], rel=1e-5)
    assert metrics["tuned_perplexity"]["value"] == pytest.approx(fit["tuned"]["perplexity"], rel=1e-5)
    assert metrics["base_bits_per_byte"]["value"] == pytest.approx(fit["base"]["bits_per_byte"], rel=1e-5)
    assert (found["base_model"], found["library_name"], found["base_model_relation"]) == ("galvan/spark", "peft", "adapter")
    assert all("interval" in m["name"] for m in metrics.values())


def test_the_interval_of_a_perplexity_is_that_of_a_jackknife_by_hand(tmp_path: Path) -> None:
    import numpy as np
    from scipy.stats import t

    make(
        tmp_path / "run", dataclasses.replace(VARIANTS["improved"], sources=48)
    )  # every document a source: the unit is the document
    found = head(card_of(tmp_path / "run"))
    metric = next(m for r in found["model-index"][0]["results"] for m in r["metrics"] if m["type"] == "base_perplexity")
    arm = read_scores(tmp_path / "run" / "scores.parquet")["base", "test"]
    nll, n = arm.nll_nats, arm.n_tokens
    left = (nll.sum() - nll) / (n.sum() - n)
    k = len(n)
    se = np.sqrt((k - 1) / k * ((left - nll.sum() / n.sum()) ** 2).sum())
    effective = n.sum() ** 2 / (n**2).sum()
    ends = np.exp(nll.sum() / n.sum() + np.array([-1, 1]) * t.ppf(0.975, effective - 1) * se)
    assert metric["args"]["ci95"] == pytest.approx(ends, rel=1e-3)


def test_a_refused_run_has_a_card_without_a_result_and_with_the_reason_first(tmp_path: Path) -> None:
    text = card_of(make(tmp_path / "run", "dead"))
    assert "model-index" not in head(text) and "erplexity" not in text
    assert re.search(r"# synthetic\n\n> \*\*Do not use this: the comparison with the base is refused\.\*\*", text)


@pytest.mark.parametrize(("variant", "word"), [("worse", "worse"), ("inconclusive", "inconclusive"), ("equivalent", "equivalent")])
def test_a_run_that_was_not_shown_to_work_says_so_before_anything_else(tmp_path: Path, variant: str, word: str) -> None:
    text = card_of(make(tmp_path / "run", variant))
    assert text.split("\n\n# synthetic\n\n")[1].startswith(f"> **It was not shown to work: {word}.**")


def test_seconds_are_the_logs_and_cost_is_their_share_of_an_hour(improved: Path) -> None:
    assert cost(1800.0, 3.0) == 1.5 and cost(None, 3.0) is None and cost(1800.0, None) is None
    text = card_of(improved, price_per_hour=36.0, currency="EUR")
    assert (
        "Time: 28 s of training on cpu, float32" in text and "Cost: 0.28 EUR of training at 36 EUR an hour" in text
    )  # 84 steps / 3
    assert "Cost" not in card_of(improved)


def test_no_path_of_the_machine_and_no_sentence_of_the_text_is_on_the_card(tmp_path: Path) -> None:
    source = "/home/someone/secret project/book of mine.csv"
    plan = dataclasses.replace(VARIANTS["improved"], settings=(f"data.source={source}",))
    text = card_of(run_with_adapter(tmp_path / "run", plan, base="/home/someone/models/tiny"), price_per_hour=1)
    assert "someone" not in text and str(tmp_path) not in text and "secret project" not in text
    assert "`book of mine.csv`" in text and "base_model" not in head(text) and "`tiny`" in text
    assert "dreary night" not in text  # every synthetic document is made of this sentence


def test_paths_are_reduced_and_other_slashes_are_left() -> None:
    assert without_paths("see /home/me/x/run.json, C:\\Users\\me\\a.txt and ~/b/c") == "see run.json, a.txt and c"
    assert without_paths("https://hf.co/a/b, org/name, 3/4, a/b/c") == "https://hf.co/a/b, org/name, 3/4, a/b/c"


def test_the_card_is_written_beside_the_adapter_and_no_stage_is_done_again_for_it(improved: Path) -> None:
    judge(improved)
    first = (improved / "adapter" / "README.md").read_bytes()
    judge(improved)
    assert (improved / "adapter" / "README.md").read_bytes() == first and head(first.decode())["library_name"] == "peft"


def test_the_program_on_the_card_writes_what_base_and_adapter_write_by_hand(
    tmp_path: Path, improved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models_for_tests import save_base, tiny_mistral

    write_json(improved / "provenance.json", read_json(improved / "provenance.json") | {"base": "/models/tiny"})
    publish(improved, str(tmp_path / "out"))
    write_json(improved / "provenance.json", read_json(improved / "provenance.json") | {"base": "galvan/spark"})
    save_base(tmp_path / "out" / "tiny", tiny_mistral(0))
    monkeypatch.chdir(tmp_path / "out")
    printed, known = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        exec(program(Path("README.md").read_text()).replace("do_sample=True, temperature=0.8", "do_sample=False"), known)
    tokenizer, base = AutoTokenizer.from_pretrained("tiny"), AutoModelForCausalLM.from_pretrained("tiny")
    ids = tokenizer("It was a dark evening, and", return_tensors="pt", return_token_type_ids=False)
    plain = base(**ids).logits
    tuned = PeftModel.from_pretrained(base, ".")
    assert torch.equal(known["model"](**ids).logits, tuned(**ids).logits) and not torch.allclose(plain, tuned(**ids).logits)
    written = tuned.generate(**ids, max_new_tokens=60, do_sample=False)[0]
    assert printed.getvalue() == tokenizer.decode(written, skip_special_tokens=True) + "\n"


# ---- to a folder ----


def test_only_named_files_travel_and_the_manifest_has_their_hashes(tmp_path: Path, once: Path) -> None:
    (once / "adapter" / "optimizer.pt").write_bytes(b"x")
    (once / "adapter" / ".env").write_text("TOKEN=x")
    found = publish(once, str(tmp_path / "out"))
    held = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert held == ["README.md", "adapter_config.json", "adapter_model.safetensors", MANIFEST] == sorted(found.files)
    record = read_json(tmp_path / "out" / MANIFEST)
    assert record["files"] == {name: sha256_file(tmp_path / "out" / name) for name in held if name != MANIFEST}
    assert (record["verdict"], record["worked"]) == ("improved", True)
    assert found.files == {name: (tmp_path / "out" / name).stat().st_size for name in held}


def test_the_adapters_config_names_the_base_as_others_know_it(tmp_path: Path) -> None:
    run = run_with_adapter(tmp_path / "run", base="/home/someone/models/tiny")
    publish(run, str(tmp_path / "out"))
    publish(run, str(tmp_path / "named"), asked=Asked(base="org/tiny"))
    names = [read_json(tmp_path / name / "adapter_config.json")["base_model_name_or_path"] for name in ("out", "named")]
    assert names == ["tiny", "org/tiny"]
    assert head((tmp_path / "named" / "README.md").read_text())["base_model"] == "org/tiny"


def test_a_dry_run_writes_nothing_and_shows_files_and_card(tmp_path: Path, once: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["galvan", "publish", str(once), "--to", str(tmp_path / "out"), "--dry-run"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().out
    assert not left.value.code and list(tmp_path.iterdir()) == []
    assert re.search(r"^ +[\d,]+ bytes  adapter_model.safetensors$", said, re.MULTILINE) and "library_name: peft" in said


def test_an_earlier_publication_is_replaced_and_nothing_else_is(tmp_path: Path, once: Path) -> None:
    out = tmp_path / "out"
    publish(once, str(out))
    publish(once, str(out), asked=Asked(licence="cc0-1.0"))
    assert head((out / "README.md").read_text())["license"] == "cc0-1.0" and [p.name for p in tmp_path.iterdir()] == ["out"]
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"holds thesis\.txt, which galvan did not publish"):
        publish(once, str(out))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with pytest.raises(RecipeError, match="not a publication of galvan"):
        publish(once, str(tmp_path / "other"))
    assert (tmp_path / "other" / "README.md").read_text() == "mine" and (out / "thesis.txt").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_the_earlier_publication(tmp_path: Path, once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from galvan import publish as module

    out = tmp_path / "out"
    publish(once, str(out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_bytes", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        publish(once, str(out), asked=Asked(licence="mit"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("variant", "error", "code"),
    [("dead", ComparisonRefused, "publish/refused"), ("worse", GateNotMet, "publish/not-shown"), ("inconclusive", GateNotMet, "publish/not-shown")],
)  # fmt: skip
def test_what_did_not_work_is_published_only_when_told(tmp_path: Path, variant: str, error: type[Exception], code: str) -> None:
    run = run_with_adapter(tmp_path / "run", variant)
    with pytest.raises(error) as refused:
        publish(run, str(tmp_path / "out"))
    assert refused.value.code == code and not (tmp_path / "out").exists()  # type: ignore[attr-defined]
    publish(run, str(tmp_path / "out"), anyway=True)
    assert read_json(tmp_path / "out" / MANIFEST)["worked"] is not True
    assert "> **" in (tmp_path / "out" / "README.md").read_text().split("# synthetic")[1][:8]


def test_a_vetoed_run_is_published_only_when_told_and_names_its_veto(tmp_path: Path, improved: Path) -> None:
    from galvan.publish import require_worked

    judged = judged_once(improved)
    vetoed = {**judged.verdict, "worked": False, "retention": {**judged.verdict["retention"], "forgot": True}}
    with pytest.raises(GateNotMet, match="vetoed for forgetting"):
        require_worked(Judged(improved, vetoed, judged.evidence))
    require_worked(Judged(improved, vetoed, judged.evidence), anyway=True)
    assert "> **Vetoed for forgetting.**" in card(improved, judged.evidence, vetoed)


def test_weights_that_were_not_judged_are_not_published(tmp_path: Path) -> None:
    run = run_with_adapter(tmp_path / "run")
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ModelError, match="not those that were judged"):
        publish(run, str(tmp_path / "out"))


def test_without_a_target_the_error_says_what_to_give(once: Path) -> None:
    with pytest.raises(RecipeError, match="--to DIR, --to hub:org/name or --space DIR"):
        publish(once)


# ---- to the Hub ----


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet speaks to a server of its own; large files go by LFS
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Hub({}, tmp_path / "hub", {SECRET: {"me"}})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_hub_gets_one_commit_to_a_private_repository_and_gives_the_same_adapter_back(hub: Hub, once: Path) -> None:
    from galvan.models import locate

    found = publish(once, "hub:me/letters")
    assert found.url == f"{hub.url}/me/letters" and hub.visibility == {"me/letters": "private"} and len(hub.commits) == 1
    assert sorted(p.name for p in hub.repositories["me/letters"].iterdir()) == sorted(found.files)
    back = locate("me/letters", "adapter").path
    assert (back / "adapter_model.safetensors").read_bytes() == (once / "adapter" / "adapter_model.safetensors").read_bytes()
    assert 'tuned = "me/letters"' in (hub.repositories["me/letters"] / "README.md").read_text()
    publish(once, "hub:me/letters", asked=Asked(licence="mit"))  # the repository is there already
    assert len(hub.commits) == 2


def test_public_is_public_only_when_asked(hub: Hub, once: Path) -> None:
    publish(once, "hub:me/open", public=True)
    assert hub.visibility == {"me/open": "public"}


@pytest.mark.parametrize(
    ("token", "target", "code", "says"),
    [
        (None, "hub:me/x", "publish/no-token", "hf auth login"),
        ("hf_wrong", "hub:me/x", "publish/token", "401"),
        (SECRET, "hub:others/x", "publish/forbidden", "403"),
        (SECRET, "hub:just-a-name", "publish/target", "hub:org/name"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_sentence_without_the_token(
    hub: Hub, once: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None, target: str, code: str, says: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(RecipeError, match=says) as refused:
        publish(once, target)
    assert refused.value.code == code and "\n" not in str(refused.value) and SECRET not in str(refused.value)
    assert hub.commits == []


def test_offline_and_a_broken_hub_are_told_apart(hub: Hub, once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="offline"):
        publish(once, "hub:me/x", offline=True)
    hub.broken = True
    with pytest.raises(ResourceError, match="could not be reached for me/x"):
        publish(once, "hub:me/x")


# ---- a Space ----


def test_a_space_holds_galvan_the_adapter_and_no_text_of_the_run(tmp_path: Path) -> None:
    plan = dataclasses.replace(
        VARIANTS["improved"], settings=("data.source=/home/someone/book.csv", "generation.prompts=[my secret prompt]")
    )
    run = run_with_adapter(tmp_path / "run", plan, base="/home/someone/models/tiny")
    with pytest.raises(RecipeError, match="--base ORG/NAME"):
        publish(run, space=tmp_path / "space")
    publish(run, space=tmp_path / "space", asked=Asked(base="org/tiny"))
    held = {path.relative_to(tmp_path / "space").as_posix() for path in (tmp_path / "space").rglob("*") if path.is_file()}
    ours = {name for name in held if not name.startswith("galvan/")}
    assert ours == {
        "README.md", "Dockerfile", ".dockerignore", "app.py", "requirements.txt", MANIFEST, "run/recipe.yaml", "run/adapter/README.md",
        "run/adapter/adapter_config.json", "run/adapter/adapter_model.safetensors",
    }  # fmt: skip
    assert not any(name.startswith("galvan/assets") for name in held)
    texts = "".join((tmp_path / "space" / name).read_text() for name in ours if not name.endswith(".safetensors"))
    assert not [word for word in ("someone", "secret prompt", "dreary", str(tmp_path)) if word in texts]
    front = head((tmp_path / "space" / "README.md").read_text())
    assert (front["sdk"], front["app_port"]) == ("docker", 7860)
    pinned = (tmp_path / "space" / "requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned) and any(line.startswith("uvicorn==") for line in pinned)


def test_a_spaces_entry_point_answers_a_browser_from_its_own_files(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the playground needs the extra [app]")
    run = run_with_adapter(tmp_path / "run")
    publish(run, space=tmp_path / "space")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SPACE_HOST", "GALVAN_APP_PASSWORD")}
    closed = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path / "space", env=environment, capture_output=True, text=True, check=False
    )
    assert closed.returncode == 2 and "error[app/closed]" in closed.stderr and "GALVAN_APP_OPEN" in closed.stderr
    served = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path / "space", env=environment | {"GALVAN_APP_OPEN": "1", "HOST": "127.0.0.1", "PORT": "0"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert served.stdout is not None
        url = served.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:") and "token" not in url
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = answer(opener, url)
        assert "How shall the text begin?" in page and "Blind review" not in page
    finally:
        served.terminate()
        served.wait(10)


def answer(opener: urllib.request.OpenerDirector, url: str) -> str:
    for _ in range(50):
        with contextlib.suppress(ConnectionError):
            return str(opener.open(url, timeout=5).read().decode())
        time.sleep(0.1)
    raise AssertionError("no answer")


def test_behind_a_proxy_only_its_name_and_its_origin_are_ours(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the playground needs the extra [app]")
    from fastapi.testclient import TestClient

    from galvan.app.guard import Guard
    from galvan.app.server import create_app

    guard = Guard("0.0.0.0", 7860, public="https://me-letters.hf.space", open_to_all=True)
    app = create_app(tmp_path, guard, None, Names())
    client = TestClient(app, base_url="https://me-letters.hf.space")
    page = client.get("/")
    assert page.status_code == 200 and page.url.path == "/playground"
    cookie = page.history[0].headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert client.get("/review").status_code == 404
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert csrf
    for origin, code in (("https://me-letters.hf.space", 400), ("http://me-letters.hf.space", 403), ("https://evil.example", 403)):
        assert client.post("/playground", data={"csrf": csrf[1]}, headers={"origin": origin}).status_code == code  # 400: no prompt
    assert TestClient(app, base_url="https://evil.example").get("/").status_code == 403
    with pytest.raises(RecipeError, match="without a password"):
        Guard("0.0.0.0", 7860, public="https://me-letters.hf.space")


class Names:
    """As much of a playground as its page needs."""

    names = ("adapter",)

    def asked(self, fields: Any) -> Any:
        raise RecipeError("app/prompt", "no prompt")
