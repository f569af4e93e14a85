"""The parts of the page: one `@section` function each, in the order in which they stand here.

Each returns blocks (`galvan.report.blocks`), or none where the run has nothing to say. A refused comparison shows no figure of either arm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from galvan.copying.originality import COPY_WORDS, HUMAN
from galvan.data.show import ShownRow, to_html
from galvan.diagnosis.catalogue import FAMILIES, Finding
from galvan.report import figures
from galvan.report.blocks import Beside, Block, Bullets, Cell, Checks, Code, Copied, Figure, Fold, Heading, Losses, Table, Text
from galvan.report.copying import copying_line
from galvan.report.evidence import Evidence
from galvan.report.explanations import explanations, headline_of
from galvan.report.limits import limits
from galvan.report.names import went_on_from
from galvan.report.passages import MOST_TOKENS, Passages, span
from galvan.report.picture import power_svg
from galvan.report.prose import (
    control_line,
    epochs,
    nats,
    percent,
    percent_interval,
    plural,
    recipe_line,
    sensitivity,
    sentence,
    told,
)
from galvan.report.ratings import DECISIONS
from galvan.report.remedies import Action, next_actions
from galvan.report.retention import KINDS, retention_line
from galvan.report.style import HEADLINES as STYLE
from galvan.report.style import style_line
from galvan.report.verdict import vetoes
from galvan.statistics.ratio import Interval
from galvan.style.explain import Value

PICTURES = ("splits", "lengths", "duplicates")
MOST_ACTIONS = 3
_EPOCHS = re.compile(r"training\.epochs=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a section may look at: the evidence, the verdict made of it, and those of the run's files that only the page shows."""

    e: Evidence
    verdict: Mapping[str, Any]
    documents: Passages | None
    pictures: Mapping[str, Markup]
    rows: Sequence[ShownRow]


@dataclass(frozen=True, slots=True)
class Section:
    id: str
    title: str
    blocks: Callable[[Seen], list[Block]]


SECTIONS: list[Section] = []


def section(id: str, title: str) -> Callable[[Callable[[Seen], list[Block]]], Callable[[Seen], list[Block]]]:  # noqa: A002
    """Declare a part of the page, after those declared before."""

    def register(blocks: Callable[[Seen], list[Block]]) -> Callable[[Seen], list[Block]]:
        SECTIONS.append(Section(id, title, blocks))
        return blocks

    return register


@section("result", "Result")
def result(seen: Seen) -> list[Block]:
    e = seen.e
    if e.judged is None:
        return _refused(seen)
    why = e.judged.reason
    blocks: list[Block] = [Text(sentence(headline_of(e) or ""), "lead"), Text(sentence(why))]
    if against := vetoes(seen.verdict):
        blocks.append(Text(f"It is not called a success all the same: {' and '.join(against)} stands against it.", "caution"))
    if e.test is not None:
        t = e.test
        blocks.append(
            Text(
                f"Measured on {t.n_tokens:,.0f} tokens of {plural(t.n_documents, 'held-out document')}: {nats(t.nats_per_token, t.ci95)}; "
                f"the interval counts {plural(t.n_clusters, t.unit)}.", "how",
            )
        )  # fmt: skip
    blocks += [Text(caution, "caution") for caution in e.judged.cautions]
    answers = [("Does it write like the author?", STYLE[e.style.style.closer]) if e.style else None,
               ("Does it copy?", copying_line(e.copying)) if e.copying and e.copying.originality else None,
               ("What did it forget?", retention_line(e.retention)) if e.retention and e.retention.answer else None]  # fmt: skip
    said = [[question, sentence(answer)] for question, answer in filter(None, answers)]
    present = [f for f in e.findings if f.status == "present"]
    if present:
        said.append(["What was found?", " ".join(sentence(f"{f.code}: {f.title}") for f in present)])
    return [*blocks, Table("The other answers in short", ["Question", "Answer"], said)] if said else blocks


def _refused(seen: Seen) -> list[Block]:
    """What was wrong, how that is known, and what to do first: all of it on the first screen."""
    e, actions = seen.e, next_actions(seen.e)
    found = [f for f in e.findings if f.status == "present"]
    wrong = f"{found[0].code}: {found[0].title}" if found else e.refusal or ""
    blocks: list[Block] = [Text(sentence(wrong), "lead")]
    if found:
        blocks += [Heading("What was wrong"), Bullets([_told(e, [line]) for line in found[0].because])]
        blocks += [Text(f"Also found: {sentence(f'{f.code}, {f.title}')} {_told(e, f.because[:1])}") for f in found[1:]]
    if actions:
        blocks += [Heading("What to do first"), *_action(e, actions[0])]
    return [
        *blocks,
        Text("Until this is mended the figures of the two arms say nothing about the fine-tune, so none are shown.", "caution"),
    ]


@section("trust", "Can we trust this?")
def trust(seen: Seen) -> list[Block]:
    e = seen.e
    lines: list[tuple[bool | None, str]] = []
    if e.comparisons is not None:
        lines.append((e.comparisons.identity.status != "identical", e.comparisons.identity.reason))
        lines += [
            ({"ok": True, "failed": False, None: None}[c.status], sentence(control_line(name, c)))
            for name, c in e.comparisons.controls.items()
        ]
    lines += [_integrity(e, f) for f in e.findings if f.code[0] in "ABC" and f.status != "unknown"]
    open_ = [line for line in lines if line[0] is not True]
    passed = [line for line in lines if line[0] is True]
    blocks: list[Block] = [Text("Each check has an answer that is known beforehand; one that fails refuses the comparison.", "how")]
    blocks += [Checks(open_)] if open_ else [Text("No control and no check of the adapter failed.")]
    if passed:
        blocks.append(Fold(f"{plural(len(passed), 'check')} passed", [Checks(passed)]))
    return blocks if lines else []


def _integrity(e: Evidence, f: Finding) -> tuple[bool | None, str]:
    spoken = f.against if f.status == "absent" else f.because
    return f.status == "absent", f"{f.code}, {f.title}: {_told(e, spoken[:1])}"


def _told(e: Evidence, lines: Sequence[str]) -> str:
    return told(lines, e.refusal is not None) or "-"


@section("power", "What could have been seen")
def power(seen: Seen) -> list[Block]:
    test = seen.e.test
    if test is None:
        return []
    spread = seen.e.comparisons.bottleneck if seen.e.comparisons else None
    advice = [f"What would help most is {spread.advice}: {spread.reason}"] if spread and spread.advice else []
    return [
        Figure(Markup(power_svg(test)), "The dot is the result, its line the 95 % interval; left of zero is better."),
        Bullets([sentence(line) for line in [*sensitivity(test), *advice]]),
        Text("The tall band holds changes that these documents would miss more often than one time in five, from the spread between them.", "how"),
    ]  # fmt: skip


@section("documents", "Where it gained and lost")
def documents(seen: Seen) -> list[Block]:
    found = seen.documents
    if found is None or not found.shown:
        return []
    low, high = span(found)
    rows = [(p, figures.pair(p.base_nats, p.tuned_nats, low, high)) for p in found.shown]
    named = [("The largest gain", 0), ("The middle one", len(rows) // 2), ("The smallest gain, or the largest loss", len(rows) - 1)]
    fell = sum(p.gain > 0 for p in found.shown)
    which = (
        f"all {found.n_documents:,}"
        if len(rows) == found.n_documents
        else f"{len(rows)} of {found.n_documents:,}, evenly by rank, the first and the last among them"
    )
    colours = (
        f"Blue is what the tuned model found likelier than the base did, orange and underlined what it found less likely; from 0.25, 1 and 2.5 nats on. At most {MOST_TOKENS} tokens of a document are shown."
        if any(p.pieces for p in found.shown)
        else "This run did not keep the texts of its tokens, so its passages have no colours; score it again to see them."
    )
    return [
        Text(f"The loss of each held-out document under the base (ring) and the tuned model (disc): {fell} of {len(rows)} fell. Each line leads to its passage."),
        Losses(rows, low, high, _distinct(named)),
        Text(f"Shown are {which} documents, the largest gain first, in nats a token. {colours}", "how"),
    ]  # fmt: skip


def _distinct(named: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """One name a document, the first that it has."""
    first: dict[int, str] = {}
    for name, index in named:
        first.setdefault(index, name)
    return [(name, index) for index, name in first.items()]


@section("curves", "Learning curves")
def learning(seen: Seen) -> list[Block]:
    curve = seen.e.curve
    if curve is None or not curve.points or seen.e.refusal is not None:
        return []
    rows = [[f"{p.step:,}", _nats(p.validation), _nats(p.probe)] for p in curve.points]
    ahead = [sentence(f"Training twice as long: {curve.twice_as_long}")] if curve.twice_as_long else []
    return [
        Text(sentence(f"{curve.kind}: {curve.reason}")), *(Text(line) for line in ahead),
        Figure(figures.curves(curve), "Solid, blue: validation documents. Dashed, orange: a fixed sample of the training documents. Upright: the lowest validation loss."),
        Fold("The same as a table", [Table("Loss by step, nats a token", ["Step", "Validation", "Training probe"], rows)]),
        Text("The same documents at every evaluation, in evaluation mode; the class rests on paired differences with intervals.", "how"),
    ]  # fmt: skip


def _nats(value: float | None) -> str:
    return "not scored" if value is None else f"{value:.4f}"


@section("style", "Does it write like the author?")
def style(seen: Seen) -> list[Block]:
    run = seen.e.style
    if run is None or seen.e.refusal is not None:
        return []
    found = run.style
    blocks: list[Block] = [Text(style_line(found))]
    if found.author_score is not None and found.author_score.value is not None:
        drawing = figures.score(found.author_score.value, found.author_score.ci95, "Author score of the tuned model")
        blocks.append(
            Figure(drawing, "Where the tuned model stands between the base and the author's held-out text, with its 95 % interval.")
        )
        blocks.append(
            Text(
                "The score is that of a linear classifier which learned author against base on texts that are not judged here; gap closed is the "
                "share of the energy distance between base and held-out author that is gone.",
                "how",
            )
        )
    blocks += [Text(caution, "caution") for caution in found.cautions]
    if found.moved:
        rows: list[list[Cell]] = [
            [m.phrase, figures.trio(m), _value(m.author), _value(m.base), _value(m.tuned), "toward" if m.toward_author else "away", f"{m.p_adjusted:.3f}"]
            for m in found.moved
        ]  # fmt: skip
        blocks.append(
            Table(
                "What moved most: author (bar), base (ring), tuned (disc)",
                ["Feature", "Moved", "Author", "Base", "Tuned", "The author lies", "p"],
                rows,
            )
        )
        blocks.append(Text("Means over texts with 95 % intervals; p pays for every feature that was looked at.", "how"))
    if found.validity:
        checks = [(c.ok, sentence(f"{c.name}: {c.says}")) for c in found.validity]
        guards = [(g.ok, sentence(f"{g.name}: {g.says}")) for g in found.guards]
        unusual = [line for line in [*checks, *guards] if line[0] is not True]
        blocks += [Heading("Can this measure be trusted on these texts?"), *([Checks(unusual)] if unusual else [])]
        blocks.append(Fold("Questions with known answers, asked of the measure first", [Checks(checks)]))
        blocks.append(Fold("Guards against a text that only looks like it", [Checks(guards)]))
    if run.own is not None:
        blocks.append(Text(f"At the recipe's own sampling settings: {style_line(run.own)}"))
    return blocks


def _value(value: Value) -> str:
    return f"{value.mean:.2f} ({value.ci95.low:.2f} to {value.ci95.high:.2f})"


@section("copying", "Does it copy?")
def copying(seen: Seen) -> list[Block]:
    found = seen.e.copying
    if found is None or seen.e.refusal is not None or (found.originality is None and not found.extraction):
        return []
    blocks: list[Block] = [Text(copying_line(found))]
    spans = found.originality
    if spans is not None:
        rows = [
            [s.set, f"{s.n_compared:,}", *map(_words, (s.longest_median, s.longest_95th, s.longest_max)), _share(s.copied_share)]
            for s in spans.sets
        ]
        head = ["Text", "Number", "Median", "95 %", "Largest", f"In copies of {COPY_WORDS} or more"]
        blocks += [Text(sentence(spans.excess.reason)), Table("Longest run of words shared with the training text", head, rows)]
        blocks += [Text(caution, "caution") for caution in spans.cautions]
        if not any(s.n_words >= COPY_WORDS for s in spans.longest_spans):
            blocks.append(Text(f"No run of {COPY_WORDS} words or more stands in the training text."))
        if spans.longest_spans:
            blocks.append(Heading("The longest shared runs, beside their source"))
            blocks += [
                Copied(f"{s.set}, {s.id}, {plural(s.n_words, 'word')}", s.text, s.document, s.before, s.document_text, s.after)
                for s in spans.longest_spans
            ]
        known = "held-out text by the same author in passages as long" if spans.of(HUMAN) else "nothing: there is no held-out text"
        blocks.append(Text(f"Counted in lower-case words without punctuation; what is usual is told by {known}.", "how"))
    if found.extraction:
        rows = [
            [f"{x.arm}, {x.split}", f"{x.n:,}", f"{x.greedy:,}", _percents(x.greedy_ci95), _share(x.expected_rate)]
            for x in found.extraction
        ]
        head = ["Arm and split", "Passages", "Given word for word", "95 % interval", "By one of 100 samples"]
        blocks.append(
            Fold("Passages that are said by heart", [Table("Passages completed exactly after their first tokens", head, rows)])
        )
    if found.membership is not None:
        blocks.append(Text(sentence(found.membership.reason)))
    return blocks


def _words(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


@section("retention", "What was forgotten?")
def retention(seen: Seen) -> list[Block]:
    found = seen.e.retention
    if found is None or seen.e.refusal is not None or (found.answer is None and not found.tasks):
        return []
    blocks: list[Block] = [Text(retention_line(found))]
    changes = [c for c in (found.neutral, found.author) if c is not None]
    if changes:
        rows = [
            [KINDS[c.kind], f"{c.n_documents:,} ({c.n_tokens:,})", f"{c.kl_nats.value:.4f}", f"{100 * c.top1_agreement.value:.1f} %",
             f"{percent(c.perplexity_change_percent.value)} ({percent_interval(c.perplexity_change_percent.ci95)})", c.band]
            for c in changes
        ]  # fmt: skip
        head = ["Text", "Documents (tokens)", "KL, nats", "Same likeliest token", "Perplexity", "In words"]
        blocks.append(Table("Base against tuned over the whole vocabulary", head, rows))
    if found.tasks:
        rows = [
            [f"{t.task}, {t.metric}", f"{t.n_items:,}", f"{t.base:.3f}", f"{t.tuned:.3f}", f"{t.difference.value:+.3f}"]
            for t in found.tasks
        ]
        blocks.append(Table("Tasks, the same items asked of both", ["Task", "Items", "Base", "Tuned", "Difference"], rows))
    blocks += [Text(caution, "caution") for caution in found.cautions]
    return [*blocks, Text("Forgetting is judged by the perplexity of neutral text alone; intervals by document.", "how")]


@section("pairs", "Side by side")
def pairs(seen: Seen) -> list[Block]:
    run = seen.e.style
    if run is None or seen.e.refusal is not None or not run.pairs:
        return []
    blocks: list[Block] = [
        Text(
            "The tuned texts with the median, the best and the worst author score, none picked by hand, beside what the base and the author wrote."
        )
    ]
    for p in run.pairs:
        texts = [(who, text.lstrip()) for who, text in (("Base", p.base), ("Tuned", p.tuned), ("Author", p.author)) if text]
        blocks += [Heading(f"The {p.rank} tuned text"), Text(f"After “…{p.prompt[-200:]}”"), Beside(texts)]
    return blocks


@section("readers", "What readers said")
def readers(seen: Seen) -> list[Block]:
    found = seen.e.ratings
    if found is None or seen.e.refusal is not None:
        return []
    so_far = found.so_far
    lines = [
        f"{DECISIONS[so_far.decision]}. After the first answer to each of {so_far.n} prompts the tuned model's win rate lies in "
        f"{so_far.low:.2f} to {so_far.high:.2f} (95 %), however often one looked on the way."
    ]
    for rate, question in (
        (found.tuned, "preferred the tuned text to the base's"),
        (found.author, "preferred the author's text to the tuned one"),
    ):
        if rate is not None:
            interval = "interval not defined" if rate.ci95 is None else f"95 % interval {_percents(rate.ci95)}"
            lines.append(f"In {100 * rate.value:.0f} % of {plural(rate.n, 'answer')} readers {question} ({interval}).")
    agreement = "" if found.alpha is None else f" Krippendorff's alpha between them is {found.alpha:.2f}."
    lines.append(
        f"{plural(found.n_raters, 'reader')} saw {plural(found.n_pairs, 'pair')}, without being told which was which.{agreement}"
    )
    return [
        Bullets(lines),
        *(Text(caution, "caution") for caution in found.cautions),
        Text(
            "Ties and “both bad” count half; intervals of the shares are clustered by prompt and reader, and the first one is a betting "
            "confidence sequence, which holds at every look.",
            "how",
        ),
    ]


@section("data", "What it was trained on")
def data(seen: Seen) -> list[Block]:
    captions = {
        "splits": "Which part of each source trains, validates and tests.",
        "lengths": "How long the documents are.",
        "duplicates": "Texts that came more than once.",
    }
    drawn = [name for name in PICTURES if "<rect" in seen.pictures.get(name, "")]
    blocks: list[Block] = [Figure(seen.pictures[name], captions[name]) for name in drawn]
    if seen.rows:
        tokens = Figure(Markup(to_html(seen.rows)), "Underlined tokens are learned, pale ones only read, struck ones cut off.")
        blocks.append(Fold(f"The first {plural(len(seen.rows), 'training row')}, token by token", [tokens]))
    return blocks


@section("diagnosis", "Why, and what next")
def diagnosis(seen: Seen) -> list[Block]:
    e, actions = seen.e, next_actions(seen.e)
    blocks: list[Block] = []
    for number, action in enumerate(actions[:MOST_ACTIONS], 1):
        blocks += [Heading(f"{number}. {action.action}"), *_action(e, action, titled=True)]
    if not actions:
        blocks.append(Text("Nothing is left to mend: the gain was shown, and nothing that was measured stands against it."))
    if len(actions) > MOST_ACTIONS:
        blocks.append(
            Fold(f"{plural(len(actions) - MOST_ACTIONS, 'further action')}", [Bullets([a.action for a in actions[MOST_ACTIONS:]])])
        )
    if e.refusal is None:
        weighed = [
            [x.title, x.status, " ".join(map(sentence, x.because)) or "-", " ".join(map(sentence, x.against)) or "-"]
            for x in explanations(e)
        ]
        blocks.append(
            Fold(
                "What people think of first, weighed",
                [Table("Explanations", ["Explanation", "Status", "For it", "Against it"], weighed)],
            )
        )
    if e.findings:
        rows = [[f"{f.code} {f.title}", f.status, f.certainty, _told(e, [*f.because, *f.against])] for f in e.findings]
        counts = ", ".join(f"{sum(f.status == status for f in e.findings)} {status}" for status in ("present", "absent", "unknown"))
        families = "; ".join(f"{letter}: {name.lower()}" for letter, name in FAMILIES.items())
        table = Table(f"Every cause. {families}", ["Cause", "Status", "Certainty", "Evidence"], rows)
        blocks.append(Fold(f"All {len(e.findings)} known causes: {counts}", [table]))
    return blocks


def _action(e: Evidence, action: Action, titled: bool = False) -> list[Block]:
    lines = [f"Why: {sentence(action.why)}"] if titled else []
    lines.append(f"Expected: {sentence(action.expected)}")
    ahead = e.curve.twice_as_long if e.curve and "training.epochs=" in action.command and e.refusal is None else None
    if ahead:
        lines.append(f"Expected gain: {sentence(ahead)}")
    lines.append(f"Cost of the command: {cost(e, action)}")
    return [*([] if titled else [Text(action.action)]), Bullets(lines), Code(action.command)]


def cost(e: Evidence, action: Action) -> str:
    """How long an action would take, by the seconds that this run's training took; it was the same machine."""
    if action.command.startswith("galvan check"):
        return "no training; the adapter's files are looked at, and a few texts scored."
    if not action.command.startswith("galvan run"):
        return "no training; base and tuned are scored again."
    took = e.trace[-1].get("seconds") if e.trace else None
    if not isinstance(took, int | float):
        return "one training; how long this one took is not recorded."
    asked = _EPOCHS.search(action.command)
    factor = float(asked.group(1)) / e.recipe.training.epochs if asked else 1.0
    return (
        f"training again, about {_duration(factor * took)} on the machine of this run ({_duration(took)} this time), and judging."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@section("method", "How it was done and measured")
def method(seen: Seen) -> list[Block]:
    e, origin = seen.e, seen.verdict["provenance"]
    facts = _training(e)
    recorded = [[name, str(value)] for name, value in origin.items() if isinstance(value, str) and name != "reason"]
    versions = [[f"version of {name}", str(value)] for name, value in origin["versions"].items()]
    recipe = e.comparisons.recipe if e.comparisons else None
    seeds = [Text(recipe_line(recipe))] if recipe is not None and len(recipe.seeds) > 1 and e.test else []
    return [
        Table("Training", ["What", "How"], facts), *seeds,
        Text("The base of record is scored from an object that never held an adapter; base and tuned see the same tokens, every document and every token once. "
             "The gain is the base's negative log-likelihood less the tuned model's, summed over documents and divided by all scored tokens. "
             "Its interval is a jackknife over documents, runs of neighbours or sources, whichever is the more careful."),
        Heading("Limits"), Bullets(limits(e)),
        Fold("Provenance", [Table("What was measured, by its SHA-256, and with what", ["What", "Value"], [*recorded, *versions])]),
    ]  # fmt: skip


def _training(e: Evidence) -> list[list[str]]:
    settings, facts, origin = e.recipe.training, e.training, e.provenance
    counts = ", ".join(
        f"{plural(e.splits[name].documents, 'document')} ({e.splits[name].words:,} words) to {use}"
        for name, use in (("train", "train"), ("validation", "validate"), ("test", "test"))
    )
    rows = [["Data", f"{e.recipe.data.source}: {counts}"], ["Base model", str(origin.get("base") or e.recipe.model.base)]]
    if facts is None:
        return [*rows, ["Training", "elsewhere; the adapter came without a training log"]]
    if settings.method == "lora":
        targets = ", ".join(map(str, facts.get("targets") or [])) or "no layer that is recorded"
        rows.append(
            [
                "Adapter",
                f"rank {settings.lora.rank}, alpha {settings.lora.alpha:g}, dropout {settings.lora.dropout:g}, on {targets}",
            ]
        )
    rows += [["Goes on from", before]] if (before := went_on_from(e)) else []
    trainable, total = int(facts.get("trainable_parameters") or 0), int(facts.get("total_parameters") or 0)
    return [
        *rows,
        ["Trained parameters", f"{trainable:,}" + (f" of {total:,} ({100 * trainable / total:.2f} %)" if total else "")],
        [
            "Duration",
            f"{epochs(settings.epochs)}, {plural(int(facts.get('steps') or 0), 'step')}, {int(facts.get('tokens') or 0):,} tokens",
        ],
        ["Learning rate", f"{settings.learning_rate:g} at its peak, {settings.schedule}, {settings.optimizer}"],
        ["Batch", f"{settings.batch_size} x {settings.accumulation} accumulated; seed {e.recipe.training_seed}"],
    ]


@section("files", "Files")
def files(seen: Seen) -> list[Block]:
    return [
        Bullets(["analysis.md tells the same in prose; verdict.json holds it for machines.", "scores.parquet has every likelihood by document and token, so that each figure here can be computed again.",
                 "findings.json, comparisons.json, style.json, originality.json and retention.json hold what the sections above show; power.svg and pictures/ the drawings.",
                 "galvan report RUN makes this page again from the files."]),
    ]  # fmt: skip
