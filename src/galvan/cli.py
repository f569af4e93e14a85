"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `--help` and a wrong recipe answer at once."""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from galvan import diagnostic, errors
from galvan.diagnostic import Diagnostic
from galvan.errors import GalvanError
from galvan.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from galvan.many import Evaluated
    from galvan.report import Judged

app = typer.Typer(
    name="galvan",
    help="Fine-tune a language model on a small body of text, and prove whether it worked.\n\nStart with: galvan run examples/frankenstein.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one option of the recipe; may be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder; default runs/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no hints: only the result.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network; take Hub models from the cache.")]
FailOn = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        metavar="WORDS",
        help="Comma-separated verdicts and cause codes that end with exit code 1, for example worse,inconclusive,G10.",
    ),
]


class Form(StrEnum):
    """How what was found is told beside the text for people."""

    TEXT = "text"
    GITHUB = "github"


class Search(StrEnum):
    """How a sweep takes points from its space."""

    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"


def _told(form: Form) -> Form:
    if form is Form.GITHUB:
        diagnostic.annotate()
    return form


Format = Annotated[
    Form,
    typer.Option(
        "--format",
        callback=_told,
        help="github adds annotations for GitHub Actions, on stderr: a line for each finding, and the verdict.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Work on the nodes of this Ray cluster, or `local` for one on this machine."),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe; galvan init writes one.")]
Base = Annotated[str, typer.Argument(metavar="BASE", help="A folder, a Hub id with optional @revision, or galvan/spark.")]
DataFile = Annotated[
    str,
    typer.Option(
        "--data", metavar="DATA", help="Held-out text: csv, tsv, jsonl, json, parquet, txt, a folder of txt, gutenberg:ID."
    ),
]
Column = Annotated[str, typer.Option("--column", help="The column that holds the text.")]


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write recipe.yaml.")] = Path(), json: Json = False
) -> None:
    """Write a commented recipe with every option at its default. Example: galvan init my-run"""
    from galvan import recipe
    from galvan.rundir import to_json, write_text

    path = directory / "recipe.yaml"
    if path.exists():
        raise errors.RecipeError("recipe/exists", f"{shown(str(path))} is there already; remove it or choose another folder.")
    write_text(path, recipe.commented())
    print(to_json({"recipe": str(path)}) if json else shown(str(path)))


@app.command()
def run(
    recipe_file: RecipeFile,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", min=1, max=1000, help="Train with K seeds on the same split, for the interval of the recipe beside this adapter's.")] = 1,
    settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
    fail_on: FailOn = None, form: Format = Form.TEXT,
) -> None:  # fmt: skip
    """The whole story: prepare, train, check, score, judge. Interrupted, the same command goes on. Example: galvan run recipe.yaml"""
    from galvan import recipe

    asked = recipe.load(recipe_file, settings or ())
    from galvan import pipeline

    with _watched(quiet or json) as progress:
        judged = pipeline.run(asked, out, progress, offline, seeds)
    _finish(judged, json, quiet, fail_on)


@app.command()
def plan(
    recipe_file: RecipeFile,
    pilot: Annotated[Path | None, typer.Option("--pilot", metavar="RUN", help="An earlier run that gives the spread of gains, instead of an assumption.")] = None,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Also time some steps on a small model of the base's architecture, for time and memory.")] = True,
    settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
) -> None:  # fmt: skip
    """What the test documents will be able to show, and what training will take, before anything is trained. Example: galvan plan recipe.yaml"""
    from galvan import recipe

    asked = recipe.load(recipe_file, settings or ())
    from galvan.plan import plan as make

    with _watched(quiet or json) as progress:
        planned = make(asked, out, pilot=pilot, progress=progress, offline=offline, cost=cost)
    print(planned.to_json() if json else planned.to_text())


@app.command()
def sweep(
    recipe_file: RecipeFile,
    grid: Annotated[list[str] | None, typer.Option("--grid", metavar="A.B=V1,V2", help="Values of one option to try, or LOW..HIGH[:log] for random and tpe; may be repeated. Without any: ranks and learning rates.")] = None,
    search: Annotated[Search, typer.Option("--search", help="grid: all combinations; random: --trials of them; tpe: Optuna chooses each by those before.")] = Search.GRID,
    trials: Annotated[int | None, typer.Option("--trials", metavar="N", min=1, max=10_000, help="How many, where the search is random or tpe.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Give a trial up where it is worse than the best one, document by document (Wilcoxon).")] = False,
    storage: Annotated[str | None, typer.Option("--storage", metavar="URL", help="A database in which several workers share the trials; default a journal file in the folder.")] = None,
    ray: Ray = None,
    settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False, fail_on: FailOn = None,
) -> None:  # fmt: skip
    """Train many settings, choose on validation documents, judge the chosen one once. Example: galvan sweep recipe.yaml --grid training.lora.rank=8,16"""
    from galvan import recipe

    asked = recipe.load(recipe_file, settings or ())
    from galvan.sweep.driver import sweep as run_sweep

    with _watched(quiet or json) as progress:
        swept = run_sweep(
            asked,
            grid or (),
            search=search.value,
            trials=trials,
            prune=prune,
            storage=storage,
            ray=ray,
            out=out,
            progress=progress,
            offline=offline,
        )
    print(swept.to_json() if json else swept.to_text())
    raise typer.Exit(swept.judged.exit_code(fail_on))


@app.command()
def more_text(
    recipe_file: RecipeFile, settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Would more text help? Six trainings: a quarter, half and all of it, with two seeds. Example: galvan more-text recipe.yaml"""
    from galvan import recipe

    asked = recipe.load(recipe_file, settings or ())
    from galvan.sweep.more_text import would_more_text_help

    with _watched(quiet or json) as progress:
        found = would_more_text_help(asked, out, progress, offline)
    print(found.to_json() if json else found.to_text())


@app.command()
def improve(
    run_or_recipe: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a recipe, which is then run first.")],
    trials: Annotated[int, typer.Option("--trials", metavar="N", min=1, max=1_000, help="Trials after the start at most.")] = 10,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Minutes of training at most; the trial under way is finished.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=0, help="Tokens trained on at most; the trial under way is finished.")] = None,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where trials and report go; default RUN/improve.")] = None,
    settings: Set = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
) -> None:  # fmt: skip
    """From the diagnosis to a model that works: remedies one by one, judged on untouched documents. Example: galvan improve runs/frankenstein"""
    from galvan import recipe
    from galvan.improve.driver import Budget, run_first
    from galvan.improve.driver import improve as loop

    if settings and run_or_recipe.is_dir():
        raise errors.RecipeError("usage", "--set changes a recipe; a run has its own. Give the recipe instead of the folder.")
    asked = None if run_or_recipe.is_dir() else recipe.load(run_or_recipe, settings or ())
    with _watched(quiet or json) as progress:
        folder = run_or_recipe if asked is None else run_first(asked, progress, offline, ray)
        found = loop(folder, Budget(trials, minutes, tokens), out=out, progress=progress, offline=offline, ray=ray)
    print(found.to_json() if json else found.to_text())
    raise typer.Exit(found.exit_code())


@app.command()
def prepare(
    recipe_file: RecipeFile, settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
    show: Annotated[int, typer.Option("--show", metavar="N", min=0, help="Print the first N training rows as tokens: trained, masked or cut.")] = 0,
    form: Format = Form.TEXT,
) -> None:  # fmt: skip
    """Read, clean, cut, split and audit the text; nothing is trained. Example: galvan prepare recipe.yaml --show 3"""
    _stages(recipe_file, settings, out, quiet or json, offline, train=False, rows=show)(json)


@app.command()
def train(
    recipe_file: RecipeFile,
    settings: Set = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    offline: Offline = False,
    form: Format = Form.TEXT,
) -> None:
    """Prepare the text and train the adapter; nothing is judged. Example: galvan train recipe.yaml --out runs/a"""
    _stages(recipe_file, settings, out, quiet or json, offline, train=True)(json)


@app.command()
def check(
    base: Base,
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A PEFT adapter, or a fully tuned model: a folder or a Hub id.")],
    json: Json = False, files_only: Annotated[bool, typer.Option("--files-only", help="Read the files and load no model.")] = False,
    repair: Annotated[Path | None, typer.Option("--repair", metavar="OUT", help="Write a corrected copy to this new folder, where names or the scale are at fault, and check the copy.")] = None,
    exported: Annotated[str | None, typer.Option("--exported", metavar="FOLDER", help="A merged model that another program made of the two: is the adapter in it?")] = None,
    offline: Offline = False, form: Format = Form.TEXT,
) -> None:  # fmt: skip
    """Is the adapter whole, in the model, and doing something? No data needed. Example: galvan check galvan/spark runs/a/adapter"""
    from galvan import pipeline

    result = pipeline.check(base, adapter, load=not files_only, offline=offline, repair=repair, exported=exported)
    print(result.to_json() if json else result.to_text())
    diagnostic.tell(result.diagnostics())
    lost = any(finding.code == "H03" and finding.status == "present" for finding in result.findings)
    raise typer.Exit(errors.EXIT_MODEL if lost or result.alive is False else errors.EXIT_DONE)


@app.command()
def score(
    base: Base,
    data: DataFile,
    adapters: Annotated[list[str] | None, typer.Argument(metavar="[ADAPTER]...", help="Adapters or tuned models, each scored beside the base.")] = None,
    column: Column = "text", settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Likelihoods only: scores.parquet, and the paired gain of each adapter. Example: galvan score galvan/spark runs/a/adapter --data held-out.csv"""
    from galvan import pipeline

    with _watched(quiet or json) as progress:
        scored = pipeline.score(
            base, adapters or [], data, column=column, out=out, settings=settings or (), progress=progress, offline=offline
        )
    print(scored.to_json() if json else scored.to_text())
    raise typer.Exit(errors.EXIT_MODEL if scored.refused else errors.EXIT_DONE)


@app.command()
def evaluate(
    base: Base,
    adapters: Annotated[list[str], typer.Argument(metavar="ADAPTER...", help="PEFT adapters, or fully tuned models: folders or Hub ids. Several share one load of the base, and are judged together as well.")],
    data: DataFile,
    train_data: Annotated[str | None, typer.Option("--train-data", metavar="DATA", help="The text it was trained on, if at hand.")] = None,
    reported: Annotated[list[str] | None, typer.Option("--reported", metavar="ARM=VALUE", help="A perplexity that another program gave for this text, base=7.95 or tuned=7.95; how it was computed is looked for.")] = None,
    ray: Ray = None,
    column: Column = "text", settings: Set = None, out: Out = None, json: Json = False, quiet: Quiet = False, offline: Offline = False,
    fail_on: FailOn = None, form: Format = Form.TEXT,
) -> None:  # fmt: skip
    """Everything after training, for adapters made anywhere. Example: galvan evaluate BASE ADAPTER --data held-out.csv"""
    from galvan import pipeline

    figures = _reported(reported) if reported else None
    asked: dict[str, Any] = {"train_data": train_data, "column": column, "out": out, "settings": settings or (), "offline": offline}
    with _watched(quiet or json) as progress:
        if len(adapters) == 1 and ray is None:
            judged = pipeline.evaluate(base, adapters[0], data, progress=progress, reported=figures, **asked)
        else:
            found = _evaluate_many(base, adapters, data, figures, ray=ray, progress=progress, **asked)
    if len(adapters) == 1 and ray is None:
        _finish(judged, json, quiet, fail_on)
    if json:
        print(found.to_json())
    else:
        found.show()
    raise typer.Exit(found.exit_code(fail_on))


def _evaluate_many(base: str, adapters: list[str], data: str, reported: dict[str, float] | None, **asked: Any) -> Evaluated:
    from galvan.many import evaluate_many

    if reported:
        raise errors.RecipeError("usage", "--reported is for one adapter; evaluate that one alone, without --ray.")
    return evaluate_many(base, adapters, data, **asked)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    json: Json = False,
    quiet: Quiet = False,
    fail_on: FailOn = None,
    form: Format = Form.TEXT,
) -> None:
    """Judge a run again from its files; no model is loaded. Example: galvan report runs/frankenstein"""
    from galvan.report import judge
    from galvan.rundir import alone, open_run

    with alone(open_run(folder)):
        judged = judge(folder)
    _finish(judged, json, quiet, fail_on)


@app.command()
def style(
    author: Annotated[str, typer.Option("--author", metavar="FILE", help="The author's texts that the model was trained on.")],
    base: Annotated[str, typer.Option("--base", metavar="FILE", help="What the base model wrote, one text a row.")],
    tuned: Annotated[str, typer.Option("--tuned", metavar="FILE", help="What the tuned model wrote to the same prompts, in the same order.")],
    held_out: Annotated[str | None, typer.Option("--held-out", metavar="FILE", help="Texts of the author that it was not trained on; without them some of --author are set aside.")] = None,
    other: Annotated[list[str] | None, typer.Option("--other", metavar="FILE", help="Another author, to be told from this one; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", metavar="LIST", help="Words that shall be no features: pronouns or contractions (English); may be repeated.")] = None,
    column: Column = "text", json: Json = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Does it write like the author? Texts from anywhere, no model. Example: galvan style --author a.csv --base b.jsonl --tuned t.jsonl"""
    from galvan.style import judge_style
    from galvan.style.files import read_texts
    from galvan.style.lists import LISTS

    def texts(source: str) -> Any:
        return read_texts(source, column, offline)

    for name in without or ():
        if name not in LISTS:
            raise errors.RecipeError(
                "usage", f"--without {shown(name, 40)}: there is no such list; there are {' and '.join(LISTS)}."
            )
    leave_out = frozenset(word for name in without or () for word in LISTS[name])
    others = {source: texts(source).texts for source in other or ()}
    known = texts(held_out) if held_out else None
    found = judge_style(texts(author), texts(base), texts(tuned), known, others=others, leave_out=leave_out)
    if json:
        print(found.to_json())
    else:
        from galvan.report.terminal import show_style

        show_style(found)
    unsure = found.closer in ("not shown", "not measurable") and not found.vetoes
    raise typer.Exit(
        errors.EXIT_DONE if found.closer == "yes" else errors.EXIT_INCONCLUSIVE if unsure else errors.EXIT_GATE_NOT_MET
    )


@app.command()
def originality(
    train: Annotated[str, typer.Option("--train", metavar="FILE", help="The texts that the model was trained on.")],
    texts: Annotated[str, typer.Option("--texts", metavar="FILE", help="What the model wrote, without the prompts, one text a row.")],
    human: Annotated[str | None, typer.Option("--human", metavar="FILE", help="Texts of the author that it was not trained on, which say how much sharing is usual.")] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="FILE", help="What the untuned model wrote to the same prompts.")] = None,
    column: Column = "text", json: Json = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Does it copy its training text? No model. Example: galvan originality --train train.csv --texts written.jsonl --human held-out.csv"""
    from galvan.copying.originality import BASE, HUMAN, TUNED, Text, judge_texts
    from galvan.data.read import read

    def read_texts(source: str) -> list[Text]:
        return [Text(row.where, row.text) for row in read(source, column, offline=offline)]

    sources = {TUNED: texts, BASE: base, HUMAN: human}
    found = judge_texts(read_texts(train), {name: read_texts(source) for name, source in sources.items() if source is not None})
    print(found.to_json() if json else found.to_text())
    unsure = found.excess.answer == "not measurable"
    raise typer.Exit(
        errors.EXIT_INCONCLUSIVE
        if unsure
        else errors.EXIT_GATE_NOT_MET
        if found.excess.answer == "excess copying"
        else errors.EXIT_DONE
    )


@app.command()
def explain(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="A cause, for example A01.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every cause.")] = False,
    json: Json = False,
) -> None:
    """What a cause is, how it is proved, how it is mended. Example: galvan explain A01"""
    from galvan.diagnosis import causes
    from galvan.diagnosis import explain as find
    from galvan.rundir import to_json

    if code is None and not every:
        raise errors.RecipeError("usage", "galvan explain needs a cause such as A01, or --all.")
    chosen = causes() if code is None else [find(code)]
    if json:
        print(
            to_json(
                [{**dataclasses.asdict(c), "family": c.family} for c in chosen]
                if code is None
                else {**dataclasses.asdict(chosen[0]), "family": chosen[0].family}
            )
        )
        return
    for c in chosen:
        print(
            f"{c.code} {c.title} ({c.family})\n  seen as: {c.symptom}\n  proof:   {c.proof}\n  mend:    {c.remedy}\n  settle:  {c.settle}\n  sources: {', '.join(c.sources)}\n"
        )


@app.command(name="app")
def open_app(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    adapters: Annotated[list[str] | None, typer.Option("--adapter", metavar="ADAPTER", help="Another adapter for the playground; may be repeated.")] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Another address than loopback demands a password: GALVAN_APP_PASSWORD, or the prompt.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    review_only: Annotated[bool, typer.Option("--review-only", help="No playground, so no model is loaded.")] = False,
    json: Json = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Blind review and playground in the browser, on this machine alone. Example: galvan app runs/frankenstein"""
    from galvan.rundir import open_run, to_json

    open_run(folder)
    try:
        from galvan.app import server
    except ModuleNotFoundError as error:
        raise errors.RecipeError(
            "app/missing", f"galvan app needs {error.name}; install it with: pip install 'galvan[app]'."
        ) from None
    from galvan.app.guard import loopback

    password = os.environ.get("GALVAN_APP_PASSWORD") or None
    if password is None and not loopback(host) and sys.stdin.isatty():
        password = typer.prompt("Password for the pages", hide_input=True, confirmation_prompt=True, err=True)
    playground = None
    if not review_only:
        from galvan.app.playground import Playground

        playground = Playground(folder, adapters or (), offline)
    server.serve(
        folder, host, port, password, playground, lambda url: print(to_json({"url": url}, None) if json else url, flush=True)
    )


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of `galvan score` with several adapters.")],
    price: Annotated[float | None, typer.Option("--price-per-hour", min=0, help="What an hour of the machines costs, for the cost of each training.")] = None,
    currency: Annotated[str, typer.Option("--currency", help="Of that price.")] = "USD",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where compare.json, compare.md and compare.html go; default runs/compare-HASH.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Several runs side by side, judged together on the documents that all scored. Example: galvan compare runs/rank-8 runs/rank-16"""
    from galvan.report import comparison
    from galvan.rundir import fingerprint, write_text
    from galvan.side_by_side import best, side_by_side

    found = side_by_side(folders, price, currency)
    sentence = best(found)[2]
    place = out or Path("runs") / f"compare-{fingerprint([str(folder) for folder in folders])[:8]}"
    pages = {"compare.md": comparison.to_markdown, "compare.html": comparison.to_html}
    for name, page in pages.items():
        write_text(place / name, page(found, sentence))
    write_text(place / "compare.json", found.to_json() + "\n")
    if json:
        print(found.to_json())
        return
    comparison.show(found, sentence)
    for name in ("compare.json", *pages):
        print(shown(f"  {place / name}"))


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[str | None, typer.Option("--to", metavar="TARGET", help="A folder, or a repository of the Hub as hub:org/name.")] = None,
    space: Annotated[Path | None, typer.Option("--space", metavar="DIR", help="Write a folder that runs the playground as a Hugging Face Space.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the files, their sizes and the card.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Publish a run that was refused, vetoed or not shown to work; the card says so first.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A new repository may be seen by all; without it, it is private.")] = False,
    base: Annotated[str | None, typer.Option("--base", metavar="ORG/NAME", help="Where others find the base, if it was a folder here.")] = None,
    licence: Annotated[str | None, typer.Option("--license", metavar="ID", help="The licence as the Hub writes it, for example apache-2.0.")] = None,
    price: Annotated[float | None, typer.Option("--price-per-hour", min=0, help="What an hour of this machine costs, for the cost on the card.")] = None,
    currency: Annotated[str, typer.Option("--currency", help="Of that price.")] = "USD",
    json: Json = False, offline: Offline = False,
) -> None:  # fmt: skip
    """Adapter and model card to a folder or the Hub, if the run worked. Example: galvan publish runs/frankenstein --to hub:me/letters --dry-run"""
    from galvan.publish import publish as go
    from galvan.report.card import Asked
    from galvan.rundir import open_run

    asked = Asked(base=base, licence=licence, price_per_hour=price, currency=currency)
    found = go(open_run(folder), to, asked=asked, space=space, anyway=anyway, dry_run=dry_run, public=public, offline=offline)
    print(found.to_json() if json else found.to_text())


@app.command()
def doctor(json: Json = False) -> None:
    """Versions, devices, memory, disk and Hub login. Example: galvan doctor"""
    from galvan.doctor import examine

    print(examine().to_json() if json else examine().to_text())


def _reported(given: list[str]) -> dict[str, float]:
    """Perplexities by arm from ARM=VALUE."""
    figures = {}
    for one in given:
        arm, _, value = one.partition("=")
        try:
            figures[arm] = float(value)
        except ValueError:
            figures[arm] = math.nan
        if arm not in ("base", "tuned") or not (math.isfinite(figures[arm]) and figures[arm] >= 1):
            raise errors.RecipeError(
                "usage", f"--reported {shown(one, 40)}: give a perplexity, which is 1 or more, as base=7.95 or tuned=7.95."
            )
    return figures


def _stages(
    recipe_file: Path, settings: list[str] | None, out: Path | None, quiet: bool, offline: bool, train: bool, rows: int = 0
) -> Callable[[bool], None]:
    from galvan import recipe
    from galvan.rundir import read_json, to_json

    asked = recipe.load(recipe_file, settings or ())
    from galvan.report.diagnostics import of_stage
    from galvan.report.terminal import show_stage
    from galvan.story import Story

    with _watched(quiet) as progress:
        story = Story.begin(asked, out or Path("runs") / asked.name, progress, offline)
        with story.alone():
            preflight = story.prepare()
            if train:
                story.train()

    def show(as_json: bool) -> None:
        result = {
            "run": str(story.folder),
            "audit": read_json(story.folder / "audit.json"),
            "tokens": read_json(story.folder / "tokens.json"),
        }
        result["preflight"] = read_json(story.folder / "preflight.json")
        seen = story.show(rows) if rows else []
        if as_json and rows:
            result["rows"] = seen
        elif rows:
            from galvan.data.show import to_terminal

            print(to_terminal(seen, sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
        if train:
            result["training"] = read_json(story.folder / "training.json")
        if as_json:
            print(to_json(result))
        else:
            show_stage(result, preflight.summary())
        diagnostic.tell(of_stage(result))
        story.require_sound()

    return show


def _watched(quiet: bool) -> Any:
    from galvan.progress import Shown

    return Shown(quiet)


def _finish(judged: Judged, json: bool, quiet: bool, fail_on: str | None) -> None:
    if json:
        print((judged.folder / "verdict.json").read_text(encoding="utf-8"), end="")
    else:
        judged.show(quiet)
    diagnostic.tell(judged.diagnostics(fail_on))
    raise typer.Exit(judged.exit_code(fail_on))


def main() -> None:
    """The entry point. Started as one of several processes, the first runs the command and the others help; all end with one exit code."""
    from galvan import distributed

    if not distributed.launched():
        _main()
    distributed.begin()
    if distributed.rank():
        sys.exit(distributed.serve())
    try:
        _main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else errors.EXIT_DONE
        distributed.end(code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # before the others: a launcher ends all as soon as one is gone, and is to report this one


def _main() -> NoReturn:
    """A GalvanError is one sentence and its exit code, anything else is a bug of ours."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        diagnostic.mute()
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # where it is installed, peft imports it, and it advises kernels from a hub
    try:
        code = app(standalone_mode=False)  # without standalone mode typer returns the code of a typer.Exit, Ctrl-C's 130 too
        diagnostic.end()
        sys.stdout.flush()
    except GalvanError as error:
        _refuse(error.code, str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = errors.EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):  # typer's own answer to a closed pipe is SystemExit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(errors.EXIT_DONE)
    except MemoryError:
        _out_of_memory()
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is not None and hasattr(error, "exit_code"):
            if not sys.argv[1:]:
                print(usage())
                sys.exit(errors.EXIT_USAGE)
            sentence = usage()
            _refuse("usage", f"{sentence}{'' if sentence.endswith(('.', '?')) else '.'} See galvan --help.", errors.EXIT_USAGE)
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            _refuse(
                "disk/output",
                f"What this command prints could not be written: {error.strerror}; nothing else is lost, give it another place to print to.",
                errors.EXIT_RESOURCES,
            )
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            _out_of_memory()
        print(shown(traceback.format_exc()), file=sys.stderr, end="")
        _fail("This is a bug in galvan, not a mistake of yours: please report it with the lines above.", errors.EXIT_BUG)
    if code == errors.EXIT_INTERRUPTED:
        _fail("Interrupted; the same command goes on where it was.", code)
    sys.exit(code)


def _out_of_memory() -> NoReturn:
    _refuse(
        "memory/full",
        "This machine's memory is not enough; use a smaller model or fewer evaluation.tokens_per_pass.",
        errors.EXIT_RESOURCES,
    )


def _refuse(code: str, sentence: str, exit_code: int) -> NoReturn:
    diagnostic.tell([Diagnostic("error", code, sentence)])
    _fail(f"error[{code}]: {sentence}", exit_code)


def _fail(sentence: str, code: int) -> NoReturn:
    """One line: a name that holds a line break must not begin a second one."""
    print(shown(sentence).replace("\n", "\\n"), file=sys.stderr)
    diagnostic.end()
    sys.exit(code)


if __name__ == "__main__":
    main()
