"""sweep.md: every trial in one table, what mattered, and the verdict on the chosen one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galvan.recipe import plain_yaml
from galvan.report.markdown import code, md, table

if TYPE_CHECKING:
    from galvan.sweep.driver import Swept, Trial


def page(swept: Swept) -> str:
    """The sweep for people: Markdown without a path of this machine."""
    verdict, best = swept.judged.verdict, swept.choice.best
    options = list(swept.trials[0].settings)
    ranked = sorted(swept.trials, key=lambda t: (t.validation_nats is None, t.pruned, t.validation_nats or 0.0, t.name))
    head = ["trial", *(option.rsplit(".", 1)[-1] for option in options), "validation nats a token", "gain", "95 % interval, of all trials", ""]
    lines = [
        "# Sweep", "", md(swept.sentence), "", f"Verdict on trial {code(best)}: **{md(verdict['verdict'])}**.", "", *_gain(swept), "", "## Trials", "",
        table([md(h) for h in head], [_row(t, options, best) for t in ranked]), "",
        "A gain is against the base on the same validation documents, in nats a token; its interval pays for all trials (max-T).", "",
        "## What mattered", "",
    ]  # fmt: skip
    lines += [_importance(one.option, one.share, one.ci90, one.reason) for one in swept.choice.importance]
    lines += ["", "Shares of the variance of validation loss between trials that an option explains by itself (functional ANOVA), with the 90 % "
              "interval over resampled validation documents. Shares that overlap are not told apart."]  # fmt: skip
    lines += ["", *(f"- {md(caution)}" for caution in swept.choice.family.cautions)]
    return "\n".join(lines).rstrip() + "\n"


def _gain(swept: Swept) -> list[str]:
    fit = swept.judged.verdict["fit"]
    gain = (fit or {}).get("gain")
    if not gain or gain.get("ci95") is None:
        return []
    low, high = gain["ci95"]
    return [f"On the test documents: {gain['nats_per_token']:+.4f} nats a token ({low:+.4f} to {high:+.4f})."]


def _row(t: Trial, options: list[str], best: str) -> list[str]:
    value = "-" if t.validation_nats is None else f"{t.validation_nats:.4f}"
    gain = "-" if t.gain_nats is None else f"{t.gain_nats:+.4f}"
    interval = "-" if t.ci95 is None else f"{t.ci95[0]:+.4f} to {t.ci95[1]:+.4f}"
    note = "chosen" if t.name == best else "given up" if t.pruned else md(t.reason or "", 120)
    return [t.name, *(md(plain_yaml(t.settings[o])) for o in options), value, gain, interval, note]


def _importance(option: str, share: float | None, ci90: tuple[float, float] | None, reason: str | None) -> str:
    if share is None or ci90 is None:
        return f"- {code(option)}: not measurable. {md(reason or '')}"
    return f"- {code(option)}: {share:.0%} ({ci90[0]:.0%} to {ci90[1]:.0%})"
