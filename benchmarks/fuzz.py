"""Bytes from anywhere into every reader: each accepts them or says what is wrong with them, and nothing else ever happens.

python -m benchmarks.fuzz [--seconds N] [--only TARGET ...] [--cases DIR]

Runs libFuzzer (atheris) on each target in a process of its own; what it finds is written to DIR, and kept as a case by moving it to
tests/fuzz_cases/TARGET/. `mutated` is the plain way of making such bytes, which the tests use.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from galvan.errors import GalvanError
from galvan.text import shown

Target = Callable[[bytes], None]
TARGETS: dict[str, tuple[Target, tuple[bytes, ...]]] = {}
TOKENS = (b"", b"\x00", b"\xff", b'"', b"{", b"}", b"[" * 500, b"null", b"NaN", b"1e999", b"-1", b"9" * 400, b"&a *a", b"!!python/object/apply:os.system", b"\n", b"\r\n", b",", b"\xe2\x80\xae", b"\\ud800", b"PAR1", b"..", b": ")  # fmt: skip


def target(name: str, *seeds: bytes) -> Callable[[Target], Target]:
    """Register a reader under its name, with sound inputs to begin from. GalvanError is its right to refuse."""

    def register(function: Target) -> Target:
        def run(data: bytes) -> None:
            try:
                function(data)
            except GalvanError as error:
                said = str(error)
                assert said and "\n" not in said and said == shown(said), f"not one line that is safe to print: {said!r}"

        TARGETS[name] = (run, seeds)
        return function

    return register


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="galvan-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


_RECIPE = b"name: small\nseed: 3\ndata: {source: letters.csv, split: {by: random, test: 0.3}}\ntraining: {epochs: 2, learning_rate: 1e-2, lora: {rank: 2, targets: [q_proj]}}\n"  # fmt: skip


@target("recipe", _RECIPE, b"a: &a [*a, *a]\n")
def _recipe(data: bytes) -> None:
    from galvan import recipe

    recipe.resolved(recipe.load(_file("recipe.yaml", data)))


def _reads(suffix: str, *seeds: bytes) -> None:
    @target(suffix, *seeds)
    def read(data: bytes) -> None:
        from galvan.data import clean
        from galvan.data.read import read

        for _ in clean.clean(read(str(_file(f"data.{suffix}", data))), clean.Log()):
            pass


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["It rained.", "It snowed."], "source": ["a", "b"]}), out)
    return out.getvalue()


_reads("csv", b'text,source,position\n"It rained, and ""so"" on.",a,1\nIt snowed.,a,2\n')
_reads("tsv", b"text\tsource\nIt rained.\ta\n")
_reads(
    "jsonl",
    b'{"text": "It rained.", "source": "a"}\n{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}\n',
    b'{"prompt": "a", "completion": "b"}\n',
)
_reads("json", b'[{"text": "It rained."}, {"input_ids": [1, 2], "labels": [-100, 2]}]')
_reads("txt", b"It rained.\n\nIt snowed.\n")
_reads("parquet", _parquet())


@target(
    "safetensors",
    b'\x40\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}            \x00\x00\x00\x00',
)
def _safetensors(data: bytes) -> None:
    from galvan.models import safetensors_header

    safetensors_header(_file("model.safetensors", data))


@target("configs", b'{"model_type": "llama", "hidden_size": 32, "attn_implementation": "sdpa", "text_config": {"vocab_size": 300}}', b'{"peft_type": "LORA", "r": 4, "rank_pattern": {"q": 2}, "layer_replication": [[0, 1]]}')  # fmt: skip
def _configs(data: bytes) -> None:
    from galvan.models import locate

    for name in ("config.json", "adapter_config.json", "model.safetensors.index.json"):
        _file(f"model/{name}", data)
    locate(str(_folder() / "model"))


@target("ratings", b"SQLite format 3\x00")
def _ratings(data: bytes) -> None:
    from galvan.app.ratings import ratings

    ratings(_file("rated/ratings.sqlite", data).parent)


@target("scores", _parquet())
def _scores(data: bytes) -> None:
    from galvan.compare import read_scores

    read_scores(_file("scores.parquet", data))


@target("integrity", b'{"files": null, "live": null, "function": null, "reason": "x"}')
def _integrity(data: bytes) -> None:
    from galvan.diagnosis import Facts, diagnose
    from galvan.rundir import read_json

    diagnose(Facts.from_json(read_json(_file("integrity.json", data))))


@target("documents", b'{"id": "a", "text": "It rained.", "source": "s", "position": 0}\n')
def _documents(data: bytes) -> None:
    from galvan.rundir import read_documents

    read_documents(_file("test.jsonl", data))


@target("report", b"0{}", b'1{"a": []}\n')
def _report(data: bytes) -> None:
    """The first byte says which file of a small run the rest replaces."""
    from galvan.report import judge

    run, names = _run()
    name = names[data[0] % len(names)] if data else names[0]
    whole = (run / name).read_bytes()
    (run / name).write_bytes(data[1:])
    try:
        judge(run)
    finally:
        (run / name).write_bytes(whole)


@cache
def _run() -> tuple[Path, list[str]]:
    """A run of the tests' kind, and its files that are JSON."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import synthetic

    run = synthetic.make(_folder() / "run", "improved")
    return run, sorted(str(path.relative_to(run)) for path in run.rglob("*.json*"))


def seeds_of(name: str) -> tuple[bytes, ...]:
    """Sound inputs of a target; of `report` every file of the run as it is."""
    if name != "report":
        return TARGETS[name][1]
    run, names = _run()
    return tuple(bytes([number]) + (run / file).read_bytes()[:20_000] for number, file in enumerate(names))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to four flips, cuts, repetitions and insertions of what parsers stumble over."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randint(0, len(out)), rng.randint(0, len(out))))
        match rng.randrange(5):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : min(to, at + 40)]
            case 2:
                out[at:at] = out[at : min(to, at + 40)]
            case 3:
                out[at : at + rng.randint(0, 4)] = rng.choice(TOKENS)
            case 4:
                del out[at:]
    return bytes(out)


def _fuzz(name: str, seconds: int, cases: Path) -> None:
    """In this process until the time is over or something is found."""
    import atheris

    with atheris.instrument_imports(include=["galvan"]):
        run, _ = TARGETS[name]
        for seed in seeds_of(name):
            run(seed)
    corpus, found = cases / name / "corpus", cases / name / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", f"-artifact_prefix={found}/", "-print_final_stats=1", "-rss_limit_mb=4096", str(corpus)], run)  # fmt: skip
    atheris.Fuzz()


def main() -> None:
    from benchmarks import reliability

    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="For all targets together.")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--cases", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    each = max(1, asked.seconds // len(asked.only))
    if asked.here:
        _fuzz(asked.only[0], each, asked.cases)
        return
    rows, broken = [], 0
    for name in asked.only:
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            "--here",
            "--only",
            name,
            "--seconds",
            str(each),
            "--cases",
            str(asked.cases),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, "HF_HUB_OFFLINE": "1"})
        executed = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
        found = [p.name for p in (asked.cases / name / "found").glob("*")]
        rows.append((name, executed, each, len(found)))
        broken += bool(found) or done.returncode != 0
        print(*rows[-1], *found, sep="\t", flush=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
    if set(asked.only) == set(TARGETS):
        reliability.write("fuzz", reliability.table(("reader", "inputs", "seconds", "findings"), rows))
    print(json.dumps({"targets": len(rows), "with findings": broken}))
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
