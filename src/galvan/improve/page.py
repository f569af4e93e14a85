"""improve.html and improve.md: every step with its expectation and what came of it, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from galvan.improve.looks import ALPHA
from galvan.recipe import CONTINUE, plain_yaml
from galvan.report.blocks import Block, Bullets, Table, Text
from galvan.report.comparison import Parts, markdown_of
from galvan.report.page import rendered
from galvan.report.sections import Section

if TYPE_CHECKING:
    from galvan.improve.driver import Improved, Step

HOW = (
    "Every trial was chosen by validation documents alone. Test documents were scored only where validation said improved; "
    f"the j-th such look spends {ALPHA:g} / 2^j of the chance of a false alarm, so all looks together spend no more than {ALPHA:.0%}."
)


def parts(found: Improved) -> Parts:
    """All there is to say, in order."""
    from galvan.improve.driver import looked

    first: list[Block] = [Text(found.reason, "lead")]
    first += [Text(found.held_out, "plain")] if found.held_out else []
    first += [Bullets([looked(step.look) for step in found.steps if step.look])] if any(s.look for s in found.steps) else []
    first.append(Text(HOW, "how"))
    steps: list[Block] = [_table(found), Text("Gains are against the base on the validation documents, in nats a token.", "how")]
    why: list[Block] = [Bullets([f"{s.trial}: {s.action} {s.why} Expected: {s.expected}" for s in found.steps])]
    pages = [("result", "How it ended", first), ("steps", "Steps", steps), ("why", "Why each was tried", why)]
    return [(Section(name, title, lambda _: []), blocks) for name, title, blocks in pages]


def _table(found: Improved) -> Table:
    head = ["Trial", "On", "Settings", "Validation gain", "95 % interval", "Better", "Seconds", "Tokens", "What came of it"]
    return Table("In the order in which they were tried", head, [_row(step) for step in found.steps])


def _row(step: Step) -> list[str]:
    settings = ", ".join(_setting(option, value, step.on) for option, value in step.settings.items())
    gain = "-" if step.gain_nats is None else f"{step.gain_nats:+.4f}"
    interval = "-" if step.ci95 is None else f"{step.ci95.low:+.4f} to {step.ci95.high:+.4f}"
    outcome = step.failed or ("looked at" if step.look else step.verdict or "-")
    better = "-" if step.on is None else "yes" if step.better else "no"
    return [
        step.trial,
        step.on or "-",
        settings or "as it was",
        gain,
        interval,
        better,
        f"{step.seconds:,.0f}",
        f"{step.tokens:,}",
        outcome,
    ]


def _setting(option: str, value: Any, on: str | None) -> str:
    """A setting as people read it; an adapter is gone on with where it was made, in the trial that this one stands on."""
    return f"goes on from trial {on}" if option == CONTINUE else f"{option.rsplit('.', 1)[-1]} {plain_yaml(value)}"


def to_markdown(found: Improved) -> str:
    return markdown_of("Improving a run", parts(found))


def to_html(found: Improved) -> str:
    word = "improved" if found.improved else "inconclusive"
    return rendered(f"{len(found.steps)} trials", word, (), "From a diagnosis to a model that works", parts(found))
