"""sweep.html and sweep.md: every trial in one table, what mattered, and the verdict on the chosen one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galvan.recipe import plain_yaml
from galvan.report import figures
from galvan.report.blocks import Block, Bullets, Figure, Table, Text
from galvan.report.comparison import Parts, markdown_of
from galvan.report.page import rendered
from galvan.report.sections import Section
from galvan.sweep.choose import Importance

if TYPE_CHECKING:
    from galvan.sweep.driver import Swept, Trial

SHARES = (
    "Shares of the variance of validation loss between trials that an option explains by itself (functional ANOVA of a random forest), with "
    "the 90 % interval over resampled validation documents. Shares whose intervals overlap are not told apart."
)
GAINS = "A gain is against the base on the same validation documents, in nats a token; its interval pays for all trials (max-T)."


def parts(swept: Swept) -> Parts:
    """All there is to say, in order."""
    verdict = swept.judged.verdict
    first: list[Block] = [
        Text(f"Trial {swept.choice.best} was chosen; on test documents its verdict is {verdict['verdict']}.{_gain(swept)}", "lead"),
        Text(swept.sentence, "how"), *(Text(caution, "caution") for caution in swept.choice.family.cautions),
    ]  # fmt: skip
    pages: list[tuple[str, str, list[Block]]] = [
        ("result", "The chosen one", first), ("trials", "Trials", [_table(swept), Text(GAINS, "how")]),
        ("mattered", "What mattered", [*_mattered(swept.choice.importance), Text(SHARES, "how")]),
    ]  # fmt: skip
    return [(Section(name, title, lambda _: []), blocks) for name, title, blocks in pages]


def to_markdown(swept: Swept) -> str:
    """The sweep for people, without a path of this machine."""
    return markdown_of("Sweep", parts(swept))


def to_html(swept: Swept) -> str:
    word = str(swept.judged.verdict["verdict"])
    return rendered(f"{len(swept.trials)} trials", word, (), "Many settings, one chosen", parts(swept))


def _gain(swept: Swept) -> str:
    gain = (swept.judged.verdict["fit"] or {}).get("gain")
    if not gain or gain.get("ci95") is None:
        return ""
    low, high = gain["ci95"]
    return f" Gain {gain['nats_per_token']:+.4f} nats a token ({low:+.4f} to {high:+.4f})."


def _table(swept: Swept) -> Table:
    options = list(swept.trials[0].settings)
    head = [
        "Trial",
        *(o.rsplit(".", 1)[-1] for o in options),
        "Validation",
        "Gain",
        "95 % interval of all",
        "Kept step",
        "Seconds",
        "What came of it",
    ]
    return Table("Trials, the lowest validation loss first", head, [_row(t, options, swept.choice.best) for t in swept.ranked()])


def _row(t: Trial, options: list[str], best: str) -> list[str]:
    value = "-" if t.validation_nats is None else f"{t.validation_nats:.4f}"
    gain = "-" if t.gain_nats is None else f"{t.gain_nats:+.4f}"
    interval = "-" if t.ci95 is None else f"{t.ci95[0]:+.4f} to {t.ci95[1]:+.4f}"
    note = "chosen" if t.name == best else "given up" if t.pruned else t.reason or "trained"
    cost = "-" if t.seconds is None else f"{t.seconds:,.0f}"
    return [
        t.name,
        *(plain_yaml(t.settings[o]) for o in options),
        value,
        gain,
        interval,
        "-" if t.kept_step is None else str(t.kept_step),
        cost,
        note,
    ]


def _mattered(found: tuple[Importance, ...]) -> list[Block]:
    known = [(i.option, i.share, i.ci90) for i in found if i.share is not None and i.ci90 is not None]
    said = [f"{option}: {share:.0%} ({ends.low:.0%} to {ends.high:.0%})" for option, share, ends in known]
    said += [f"{i.option}: not measurable. {i.reason}" for i in found if i.share is None]
    drawn = (
        [Figure(figures.shares([(o.rsplit(".", 1)[-1], s, e) for o, s, e in known]), "How much each option mattered.")]
        if known
        else []
    )
    return [*drawn, Bullets(said)]
