"""Many at once and for long: raters on the app, adapters checked one after another, the same work again and again in one process.

python -m benchmarks.load [--raters 200] [--adapters 1000] [--rounds 60] [--documents 1000000] [--only PART ...] [--write]
"""

from __future__ import annotations

import argparse
import gc
import html
import os
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from app_run import make_run
from benchmarks import reliability
from models_for_tests import save_adapter, save_base, tiny_mistral
from test_resume import make_inputs

Fact = tuple[str, str]
PASSWORD, PAIRS = "a long password for the load", 24


def mib() -> float:
    """Memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Rater:
    """A browser without JavaScript that signs in and judges every pair."""

    def __init__(self, origin: str, name: str) -> None:
        self._origin, self._name, self.seconds = origin, name, list[float]()
        self._web = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def _open(self, path: str, **fields: str) -> str:
        data = urllib.parse.urlencode(fields).encode() if fields else None
        begun = time.monotonic()
        with self._web.open(urllib.request.Request(self._origin + path, data, {"Origin": self._origin}), timeout=120) as answer:
            page = str(answer.read().decode())
        self.seconds.append(time.monotonic() - begun)
        return page

    def judge(self) -> int:
        """Votes that were acknowledged: after each, the page shows the next pair or the end."""
        page = self._open("/login")
        page = self._open("/login", csrf=_csrf(page), password=PASSWORD)
        page = self._open("/review/rater", csrf=_csrf(page), rater=self._name)
        for number in range(1, PAIRS + 1):
            page = self._open(
                "/review",
                csrf=_csrf(page),
                number=str(number),
                choice=("left", "right", "tie", "bad")[number % 4],
                reason="so it is",
            )
            if number < PAIRS and f"Pair {number + 1} of {PAIRS}" not in page:
                return number - 1
        return PAIRS


def _csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page[:300]
    return html.unescape(found[1])


def raters(asked: argparse.Namespace, folder: Path) -> list[Fact]:
    """All judge all pairs at the same time; every vote that was acknowledged must be in the file."""
    run = make_run(folder / "run", PAIRS)
    command = [sys.executable, "-m", "galvan", "app", str(run), "--review-only"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "GALVAN_APP_PASSWORD": PASSWORD})
    try:
        assert server.stdout is not None
        origin = server.stdout.readline().strip().partition("/?")[0].rstrip("/")
        everyone = [Rater(origin, f"rater {number}") for number in range(asked.raters)]
        begun = time.monotonic()
        with ThreadPoolExecutor(asked.raters) as pool:
            acknowledged = sum(pool.map(Rater.judge, everyone))
        wall = time.monotonic() - begun
    finally:
        server.kill()
        server.wait()
    with sqlite3.connect(run / "ratings.sqlite") as db:
        (held,) = db.execute("SELECT count(*) FROM votes").fetchone()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    seconds = sorted(second for rater in everyone for second in rater.seconds)
    cuts = statistics.quantiles(seconds, n=100)
    assert acknowledged == asked.raters * PAIRS and held == acknowledged, (acknowledged, held)
    return [
        ("raters at once, each judging every pair", f"{asked.raters} x {PAIRS}"),
        ("requests answered, none with an error", f"{len(seconds):,} in {wall:.0f} s ({len(seconds) / wall:,.0f} a second)"),
        ("seconds a request, median, 95th, 99th in a hundred", f"{cuts[49]:.2f}, {cuts[94]:.2f}, {cuts[98]:.2f}"),
        ("votes acknowledged, and in the file after SIGKILL", f"{acknowledged:,}, {held:,}"),
    ]


def adapters(asked: argparse.Namespace, folder: Path) -> list[Fact]:
    """`galvan check` on so many adapters in one process: what each costs, and whether memory or open files grow."""
    import galvan

    base = save_base(folder / "base", tiny_mistral())
    places = [save_adapter(folder / f"adapter-{n}", tiny_mistral()) for n in range(10)]
    return [
        *_again(asked.adapters, lambda n: _alive(galvan.check(base, places[n % 10]).alive), "adapters checked, all alive", "check"),
        *_again(
            asked.adapters,
            lambda n: galvan.check(base, places[n % 10], load=False).to_json(),
            "adapters checked by their files alone",
            "check",
        ),
    ]


def _alive(answer: bool | None) -> None:
    assert answer is True


def soak(asked: argparse.Namespace, folder: Path) -> list[Fact]:
    """Whole runs, with training and judging, again and again in one process, as a service would make them for days."""
    import galvan
    from galvan import recipe

    place = make_inputs(folder / "w")
    os.chdir(place)

    def once(number: int) -> None:
        asked = recipe.load(
            Path("recipe.yaml"), [f"seed={number}", "training.epochs=1", "generation.documents=2", "generation.max_new_tokens=8"]
        )
        galvan.run(asked, out=Path(f"runs/{number % 3}"))

    return _again(asked.rounds, once, "whole runs in one process", "run")


def _again(count: int, work: Callable[[int], object], what: str, unit: str) -> list[Fact]:
    """Do `work` so often; memory and open files after a tenth of it and at the end."""
    early = max(1, count // 10)
    begun = time.process_time()
    for number in range(count):
        work(number)
        if number + 1 == early:
            gc.collect()
            memory, files = mib(), open_files()
    seconds = (time.process_time() - begun) / count
    gc.collect()
    return [
        (what, f"{count:,}, {seconds:.2f} s of processor time a {unit}"),
        (f"memory after {early:,} and after {count:,} of these", f"{memory:.0f} and {mib():.0f} MiB"),
        ("open files then and then", f"{files} and {open_files()}"),
    ]


def documents(asked: argparse.Namespace, folder: Path) -> list[Fact]:
    """So many documents scored and judged, beside a tenth of them: memory at the peak of processes of their own (benchmarks/scale.py)."""
    from benchmarks import scale

    rows = scale.measure((asked.documents // 10, asked.documents))
    return [(f"{row.what}: {row.who}", f"{row.median:,.2f} {row.unit}") for row in rows]


PARTS = {"raters": raters, "adapters": adapters, "soak": soak, "documents": documents}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--write", action="store_true", help="Put the tables into docs/reliability.md.")
    asked = parser.parse_args()
    for name in asked.only:
        with tempfile.TemporaryDirectory(prefix=f"galvan-load-{name}-") as folder:
            lines = reliability.table((name, "figure"), PARTS[name](asked, Path(folder)))
            os.chdir(Path(__file__).parents[1])
        if asked.write:
            reliability.write(f"load {name}", lines)
        print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
