"""The command line as people and machines meet it: exact sentences, exit codes, one JSON document, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import typer

from galvan.cli import app
from models_for_tests import save_base, tiny_mistral
from processes import Done, Running, galvan

RECIPE = """
name: small
data: {source: letters.csv, document_tokens: 64, split: {by: random, validation: 0.1, test: 0.3}}
model: {base: tiny, dtype: float32, device: cpu}
training: {epochs: 1, batch_size: 4, learning_rate: 1e-2, evaluations: 1, probe_documents: 4, lora: {rank: 2}}
evaluation: {tokens_per_pass: 512}
"""
LETTERS = "text\n" + "".join(
    f'"Letter {n * 37 % 101}: the wind rose on day {n}, and I waited {n * n % 13} hours."\n' for n in range(40)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "tiny", tiny_mistral(initializer_range=0.02))


@pytest.fixture
def place(tiny: Path, tmp_path: Path) -> Path:
    place = tmp_path / "w"
    place.mkdir()
    (place / "recipe.yaml").write_text(RECIPE)
    (place / "letters.csv").write_text(LETTERS)
    (place / "tiny").symlink_to(tiny)
    return place


def half_written(place: Path) -> list[str]:
    """What a failed command left in the run's folder besides the lock and the recipe."""
    left = [path.relative_to(place).as_posix() for path in (place / "runs").rglob("*") if path.is_file()]
    return sorted(name for name in left if not name.endswith(("/.lock", "/recipe.yaml")))


PROGRESS = ("Base ", "Training sees ", "6 steps ", "About ", "The test part ", "warning[preflight/", "Held: ")


def refused(done: Done, code: int) -> str:
    """The one sentence on stderr behind the lines that say what was chosen and what training will cost."""
    assert done.code == code, done
    assert done.out == "" and "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith(PROGRESS)]
    assert len(lines) == 1 and lines[0].startswith("error["), done.err
    assert not any(unicodedata.category(c) in {"Cc", "Cf"} for c in lines[0])
    return lines[0]


# ---- what answers at once ----


def test_help_and_wrong_recipes_import_neither_torch_nor_transformers_nor_peft(place: Path) -> None:
    """One fresh interpreter answers all of them; what it has imported by the end is all that any of them needs."""
    script = """
import contextlib, io, sys
from galvan.cli import main
commands = [["--help"], ["run", "--help"], ["nonsense"], ["run"], ["run", "wrong.yaml"], ["run", "none.yaml"], ["prepare", "wrong.yaml"],
            ["run", "recipe.yaml", "--set", "sed=1"], ["init", "here"]]
codes = []
for command in commands:
    sys.argv = ["galvan", *command]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as done:
            codes.append(done.code or 0)
heavy = {"torch", "transformers", "peft", "numpy", "scipy", "pyarrow", "huggingface_hub", "rich"}
print(codes, sorted(heavy & set(sys.modules)))
"""
    (place / "wrong.yaml").write_text("sed: 1")
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[0, 0, 2, 2, 2, 2, 2, 2, 0] []\n", "")


def test_python_m_galvan_is_the_command(place: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "galvan", "run", "none.yaml"], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error[recipe/missing]: There is no recipe none.yaml; `galvan init` writes one.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "error[usage]: No such command 'nonsense'. See galvan --help."),
        (["rnu"], "error[usage]: No such command 'rnu'. Did you mean 'run'? See galvan --help."),
        (["run"], "error[usage]: Missing argument 'RECIPE'. See galvan --help."),
        (["run", "recipe.yaml", "--ouput", "x"], "error[usage]: No such option: --ouput (Possible options: --out). See galvan --help."),
        (["run", "recipe.yaml", "more"], "error[usage]: Got unexpected extra argument(s) (more). See galvan --help."),
        (["evaluate", "tiny", "adapter"], "error[usage]: Missing option '--data'. See galvan --help."),
        (["run", "none.yaml"], "error[recipe/missing]: There is no recipe none.yaml; `galvan init` writes one."),
        (["run", "tiny"], "error[recipe/missing]: tiny is a folder; a recipe is a YAML file."),
        (["run", "recipe.yaml", "--set", "sed=1"], "error[recipe/unknown-key]: --set sed=1: there is no option `sed`; did you mean `seed`?"),
        (["run", "wrong.yaml"], "error[recipe/unknown-key]: wrong.yaml line 3: there is no option `training.epoch`; did you mean `training.epochs`?"),
        (["report", "tiny"], "error[run/missing]: tiny is not a run: it holds no recipe.yaml; give the folder that `galvan run` printed."),
        (["init"], "error[recipe/exists]: recipe.yaml is there already; remove it or choose another folder."),
        (["nonsense\x1b[31m\u202e\nerror: none"], "error[usage]: No such command 'nonsense\\x1b[31m\\u202e\\nerror: none'. See galvan --help."),
        (["run", "\x1b]0;x\x07\u202e\nerror: none"], "error[recipe/missing]: There is no recipe \\u001b]0;x\\u0007\\u202e\\nerror: none; `galvan init` writes one."),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, place: Path) -> None:
    (place / "wrong.yaml").write_text("seed: 1\ntraining:\n  epoch: 3\n")
    assert refused(galvan(*arguments, cwd=place), 2) == sentence
    assert not (place / "runs").exists()


def test_no_command_shows_the_help_as_usage(place: Path) -> None:
    done = galvan(cwd=place)
    assert done.code == 2 and done.out.startswith("Usage: ") and "Start with: galvan run" in done.out and done.err == ""
    assert galvan("--help", cwd=place).code == 0


def test_init_writes_a_recipe_that_runs_as_it_is(place: Path) -> None:
    done = galvan("init", "new/deep", cwd=place)
    assert (done.code, done.out, done.err) == (0, "new/deep/recipe.yaml\n", "")
    done = galvan(
        "prepare",
        "new/deep/recipe.yaml",
        "--set",
        "model.base=tiny",
        "--set",
        "data.source=letters.csv",
        "--offline",
        "--json",
        cwd=place,
    )
    assert done.code == 0 and json.loads(done.out)["run"] == "runs/run"


# ---- data ----


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "error[data/missing]: none.csv: there is no such file or folder; check data.source."),
        ("empty.csv", b"", "error[data/empty]: empty.csv: the file is empty (0 bytes)."),
        ("a.csv", b"words\nx\n", "error[data/no-column]: a.csv line 1: there is no column `text`; found `words`; Set data.column."),
        ("a.csv", b"text\ncaf\xe9\n", "error[data/encoding]: a.csv line 2: byte 0xe9 at offset 8 is not UTF-8; if the file is Windows or Latin-1 text, `iconv -f WINDOWS-1252 -t UTF-8` converts it."),
        ("\x1b[31m\u202e.csv", b"\x1b[2J\xc2\x9b\nx\n", "error[data/no-column]: \\u001b[31m\\u202e.csv line 1: there is no column `text`; found `\\u001b[2J\\u009b`; Set data.column."),
        ("a.csv", b'"te\nxt"\nx\n', "error[data/no-column]: a.csv line 1: there is no column `text`; found `te\\nxt`; did you mean `te\\nxt`? Set data.column."),
    ],
    ids=["missing", "empty", "column", "undecodable", "escapes", "line break"],
)  # fmt: skip
def test_data_that_cannot_be_read_is_one_sentence_and_exit_code_3(
    name: str, content: bytes | None, sentence: str, place: Path
) -> None:
    if content is not None:
        (place / name).write_bytes(content)
    assert refused(galvan("run", "recipe.yaml", "--set", f"data.source={name}", cwd=place), 3) == sentence
    assert half_written(place) == []


def test_a_row_of_ten_megabytes_is_refused_with_its_line(place: Path) -> None:
    (place / "a.jsonl").write_text('{"text": "x"}\n{"text": "' + "x " * 5_000_001 + '"}\n')
    sentence = refused(galvan("run", "recipe.yaml", "--set", "data.source=a.jsonl", cwd=place), 3)
    assert sentence.startswith("error[data/row-too-long]: a.jsonl line 2: the row that begins here is longer than ")
    assert half_written(place) == []


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_documents_to_split_are_refused(count: int, place: Path) -> None:
    (place / "few.csv").write_text("".join(LETTERS.splitlines(keepends=True)[: count + 1]))
    sentence = refused(galvan("run", "recipe.yaml", "--set", "data.source=few.csv", cwd=place), 3)
    assert sentence.startswith("error[data/too-few]: data.split: ")
    assert half_written(place) == []


# ---- models ----


def test_a_model_that_cannot_be_used_is_one_sentence_and_exit_code_4(place: Path, tiny: Path) -> None:
    def with_base(name: str) -> str:
        return refused(
            galvan(
                "run", "recipe.yaml", "--offline", "--set", f"model.base={name}", cwd=place, env={"HF_HOME": str(place / "hub")}
            ),
            4,
        )

    assert (
        with_base("./none")
        == "error[model/missing]: There is no model ./none: no such folder, and not a Hub id; bundled: galvan/spark."
    )
    assert (
        with_base("some/one")
        == "error[model/not-cached]: some/one is neither a folder nor whole in the Hub's cache, and --offline was asked for."
    )
    assert (
        with_base("letters.csv")
        == "error[model/not-a-folder]: letters.csv is a file; a model is a folder with its config and safetensors."
    )
    shutil.copytree(tiny, place / "mute")
    (place / "mute" / "tokenizer.json").unlink()
    assert (
        with_base("mute")
        == "error[model/no-tokenizer]: mute has no tokenizer in its folder; save one there with tokenizer.save_pretrained."
    )
    shutil.copytree(tiny, place / "cut")
    with (place / "cut" / "model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    assert with_base("cut").startswith("error[model/corrupt]: cut/model.safetensors: not a whole safetensors file: ")
    assert half_written(place) == []


def test_an_unknown_target_names_what_exists_and_leaves_no_adapter(place: Path) -> None:
    done = galvan("run", "recipe.yaml", "--set", "training.lora.targets=[q_porj]", cwd=place)
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert (
        refused(done, 4)
        == f"error[training/target]: training.lora.targets: `q_porj` matches no linear layer of tiny; it has {names}."
    )
    assert not (place / "runs/small/adapter").exists()


# ---- resources ----


def test_an_unwritable_folder_is_one_sentence_and_exit_code_5(place: Path) -> None:
    done = galvan("run", "recipe.yaml", "--out", "letters.csv/run", cwd=place)
    assert (
        refused(done, 5)
        == "error[disk/unwritable]: letters.csv/run: cannot be written: Not a directory; choose another folder with --out."
    )
    assert refused(galvan("run", "recipe.yaml", "--out", "letters.csv", cwd=place), 5).startswith(
        "error[disk/unwritable]: letters.csv"
    )


@pytest.mark.parametrize("file_bytes", [500, 4_000, 20_000])
def test_files_that_may_not_grow_end_with_exit_code_5_and_the_run_goes_on_when_they_may(file_bytes: int, place: Path) -> None:
    """A limit of the file size stands for the disk's end: it can be set anywhere, so that each stage meets it once."""
    done = galvan("run", "recipe.yaml", cwd=place, file_bytes=file_bytes)
    assert done.code == 5, done
    assert done.err.splitlines()[-1].startswith("error[disk/") and "Traceback" not in done.err
    assert not [path for path in (place / "runs").rglob("*") if path.name.endswith(".part")]
    assert galvan("run", "recipe.yaml", cwd=place).code in (0, 1, 6)


@pytest.mark.parametrize("kilobytes", [16, 48, 96])
def test_a_full_disk_ends_with_exit_code_5(kilobytes: int, place: Path) -> None:
    small = place / "runs"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("this machine lets us mount no small disk")
    try:
        done = galvan("run", "recipe.yaml", cwd=place)
        assert done.code == 5, done
        assert done.err.splitlines()[-1].startswith("error[disk/full]: ") and "Traceback" not in done.err
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ---- interruption ----


def test_ctrl_c_is_exit_code_130_without_a_traceback_and_the_run_goes_on(place: Path) -> None:
    running = Running("run", "recipe.yaml", "--set", "training.epochs=30", "--set", "training.checkpoint_seconds=0", cwd=place)
    done = running.when(lambda: any((place / "runs/small/work").glob("step-*.json")), signal.SIGINT)
    assert done.code == 130 and done.out == "" and "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "Interrupted; the same command goes on where it was."
    done = galvan("train", "recipe.yaml", "--set", "training.epochs=30", "--set", "training.checkpoint_seconds=0", cwd=place)
    assert done.code == 0 and "Training goes on at step " in done.err


# ---- what it prints ----


def test_json_prints_exactly_one_document_on_stdout(place: Path) -> None:
    done = galvan("run", "recipe.yaml", "--json", cwd=place)
    assert done.code in (0, 1, 6)
    assert json.loads(done.out) == json.loads((place / "runs/small/verdict.json").read_text())
    asked = (
        ["init", "new"], ["report", "runs/small"], ["check", "tiny", "runs/small/adapter"], ["prepare", "recipe.yaml"], ["train", "recipe.yaml"], ["explain", "A01"],
        ["explain", "--all"], ["plan", "recipe.yaml", "--out", "p"], ["score", "tiny", "runs/small/adapter", "--data", "letters.csv", "--out", "s"],
        ["evaluate", "tiny", "runs/small/adapter", "--data", "letters.csv", "--out", "e"], ["originality", "--train", "letters.csv", "--texts", "letters.csv"],
        ["style", "--author", "letters.csv", "--base", "letters.csv", "--tuned", "letters.csv"],
    )  # fmt: skip
    for arguments in asked:
        done = galvan(*arguments, "--json", cwd=place)
        assert json.loads(done.out) is not None and "Traceback" not in done.err, arguments


def test_every_command_has_json() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name, c in commands.items() if "--json" not in {opt for p in c.params for opt in p.opts}] == []


def test_doctor_tells_facts_as_text_and_as_json(place: Path) -> None:
    done = galvan("doctor", "--json", cwd=place)
    facts = json.loads(done.out)
    assert (done.code, done.err, facts["schema_version"]) == (0, "", 1)
    assert (
        facts["cores"] >= 1 and facts["free_disk_bytes"] > 0 and facts["versions"]["torch"] and isinstance(facts["problems"], list)
    )
    text = galvan("doctor", cwd=place, env={"HF_HUB_CACHE": "/x"}).out
    assert text.startswith(f"Python {facts['python']} on ") and f"Device {facts['device']}: {facts['device_reason']}" in text


def test_a_version_with_letters_in_it_is_compared_by_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from galvan import doctor

    monkeypatch.setattr(doctor, "_version", lambda name: {"torch": "2.9.1rc1", "transformers": "5.3rc0.dev1"}.get(name, "1.0"))
    assert doctor.examine().problems[:1] == ["torch 2.9.1rc1 is older than 2.10, which mends security holes; upgrade it."]
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    found = doctor.examine()
    assert (found.device, found.device_reason) == ("none", "PyTorch is not installed") and len(found.problems) >= len(doctor.PARTS)


def test_hostile_names_and_texts_never_reach_the_terminal_raw(place: Path) -> None:
    """Data, file names, folders and model names with escape sequences, a whole run long."""
    hostile = "\x1b[31m\u202e\u200b\x9b"
    rows = "".join(
        json.dumps(
            {
                "text": f"Letter {n}{hostile}: {n * 37 % 101} winds rose, and I waited {n * n % 13} hours.",
                "source": f"{hostile}{n % 4}",
            }
        )
        + "\n"
        for n in range(40)
    )
    (place / f"{hostile}.jsonl").write_text(rows)
    (place / f"tiny{hostile}").symlink_to("tiny")
    settings = ["--set", f"data.source={hostile}.jsonl", "--set", f"model.base=tiny{hostile}", "--out", f"runs/{hostile}"]
    for more in ([], ["--json"]):
        done = galvan("run", "recipe.yaml", *settings, *more, cwd=place)
        assert done.code in (0, 1, 4, 6), done.err
        assert not [c for c in done.out + done.err if unicodedata.category(c) in {"Cc", "Cf"} and c != "\n"]
    run = place / "runs" / hostile
    for name in ("verdict.json", "analysis.md", "audit.json"):
        assert not [c for c in (run / name).read_text() if unicodedata.category(c) in {"Cc", "Cf"} and c not in "\n\t"], name


def test_a_pipe_and_no_color_mean_no_escape_sequences_and_quiet_means_less(place: Path) -> None:
    plain = galvan("run", "recipe.yaml", cwd=place)
    assert "\x1b" not in plain.out + plain.err
    quiet = galvan("run", "recipe.yaml", "--quiet", cwd=place)
    assert quiet.err == "" and len(quiet.out.splitlines()) < len(plain.out.splitlines())
    forced = galvan("run", "recipe.yaml", cwd=place, env={"NO_COLOR": "1", "FORCE_COLOR": "1"})
    colours = [f"\x1b[{code}m" for code in range(30, 48)]
    assert not any(colour in forced.out + forced.err for colour in colours)


def test_a_closed_pipe_ends_quietly(place: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "galvan", "explain", "--all"], cwd=place, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["explain", "--all"], ["doctor", "--json"]])
def test_an_output_on_a_full_disk_is_one_sentence_and_exit_code_5(arguments: list[str], place: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "galvan", *arguments], cwd=place, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 5
    assert done.stderr == (
        "error[disk/output]: What this command prints could not be written: No space left on device; nothing else is lost, give it another place to print to.\n"
    )


def test_a_bug_of_ours_keeps_its_traceback_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from galvan import cli, recipe

    def broken(*_: object) -> None:
        raise KeyError("\x1b[31m")

    monkeypatch.setattr(recipe, "load", broken)
    monkeypatch.setattr(sys, "argv", ["galvan", "run", "x.yaml"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code == 70 and said.startswith("Traceback") and "\x1b" not in said
    assert said.endswith("This is a bug in galvan, not a mistake of yours: please report it with the lines above.\n")


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")]
)
def test_memory_that_gives_out_is_exit_code_5(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from galvan import cli, recipe

    def greedy(*_: object) -> None:
        raise failure

    monkeypatch.setattr(recipe, "load", greedy)
    monkeypatch.setattr(sys, "argv", ["galvan", "run", "x.yaml"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 5
    assert (
        capsys.readouterr().err
        == "error[memory/full]: This machine's memory is not enough; use a smaller model or fewer evaluation.tokens_per_pass.\n"
    )
