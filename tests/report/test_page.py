"""report.html in a real browser: nothing is fetched, nothing runs, everything can be reached; and what it shows of good and of refused runs."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup, escape
from test_copying_and_forgetting import a_run

from galvan.copying.originality import Span
from galvan.report import judge
from galvan.report.evidence import Evidence
from galvan.report.figures import ticks, trusted
from galvan.report.page import coded, gather, page
from galvan.report.passages import MOST_SHOWN, evenly, passages
from galvan.report.sections import SECTIONS
from galvan.rundir import read_documents, read_rows, write_json, write_rows, write_text
from galvan.statistics.ratio import Interval
from galvan.style.explain import Moved, Value
from galvan.style.guards import Guard
from galvan.style.judge import Style
from galvan.style.run import RunStyle, Shown
from galvan.style.score import AuthorScore
from galvan.style.validity import Check
from galvan.text import shown
from synthetic import BYTES_PER_TOKEN, Plan, make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

ACTS = (
    "hit()",
    "top.hit()",
    "window['hit']()",
    "Function('hit()')()",
    "setTimeout(hit)",
    "fetch('http://198.51.100.1/')||hit()",
    "alert(hit())",
)
CARRIERS = (
    "<script>{}</script>", "<img src=x onerror={}>", "<svg onload={}>", "<svg><script>{}</script></svg>", "<body onload={}>", "<iframe srcdoc='<script>{}</script>'>",
    "<a href=\"javascript:{}\">x</a>", "<details open ontoggle={}>", "<input autofocus onfocus={}>", "<math><mtext><script>{}</script></mtext></math>", "<object data=\"javascript:{}\">",
    "<style onload={}></style>", "<video><source onerror={}></video>", "<marquee onstart={}>",
)  # fmt: skip
BREAKS = (
    "",
    '">',
    "'>",
    "--></style></script>",
    "</title></textarea>",
    "{{{{x}}}}",
    "]]>",
)  # what may end the place where data stands
PAYLOADS = [lead + carrier.format(act) for lead, carrier, act in product(BREAKS, CARRIERS, ACTS)]


def strings(given: list[str] | None) -> Iterator[str]:
    return cycle(given or ["a plain word "])


def full(folder: Path, given: list[str] | None = None) -> tuple[Evidence, dict[str, Any], Path]:
    """A run with everything a page can show, `given` wherever data or a model could bring text."""
    text = strings(given)
    folder = a_run(folder, copies=True)
    named: dict[str, str] = {}
    for split in ("train", "test"):
        rows = list(read_rows(folder / "data" / f"{split}.jsonl"))
        for n, row in enumerate(rows):
            row["text"] = "".join(islice(text, 6)) if given and split == "test" else row["text"]
            if given and split == "test":
                named[row["id"]] = row["id"] = f"{next(text)}{n}"
        write_rows(folder / "data" / f"{split}.jsonl", rows)
    renamed = [r["id"] for r in read_rows(folder / "data" / "test.jsonl")]
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    old = list(dict.fromkeys(r["document"] for r in table if r["split"] == "test"))
    names = dict(zip(old, renamed, strict=True)) if given else {}
    for row in table:
        row["document"] = names.get(row["document"], row["document"])
    schema = pq.read_schema(folder / "scores.parquet")
    pq.write_table(pa.Table.from_pylist(table, schema=schema), folder / "scores.parquet")
    lengths = {r["document"]: r["n_tokens"] for r in table if r["split"] == "test"}
    pieces = [
        {"document": d.id, "head": next(text), "pieces": [next(text) if i < 12 else "w " for i in range(lengths[d.id])]}
        for d in read_documents(folder / "data" / "test.jsonl")[:36]
    ]
    pq.write_table(pa.Table.from_pylist(pieces), folder / "pieces.parquet")
    write_json(folder / "rows.json", [
        {"document": next(text), "way": "text", "tokens": [{"text": next(text), "id": i, "kind": ("trained", "masked", "cut")[i % 3]} for i in range(70)]}
        for _ in range(3)
    ])  # fmt: skip
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" role="img"><title>A picture</title><rect width="1" height="1"/><text>{escape(next(text))}</text></svg>'
    write_text(folder / "pictures" / "splits.svg", picture)
    judged = judge(folder)
    e, value = judged.evidence, Value(1.0, Interval(0.5, 1.5))
    style = Style(
        "yes", next(text), (), AuthorScore(0.6, Interval(0.4, 0.8), next(text), None), None, None, None,
        tuple(Check("author against author", ok, next(text)) for ok in (True, False, None)),
        tuple(Guard("length", ok, next(text)) for ok in (True, False)),
        tuple(Moved(next(text), value, value, value, 0.4, n % 2 == 0, 0.04) for n in range(10)), None, (), {}, 0, {}, (next(text),),
    )  # fmt: skip
    pairs = tuple(Shown(rank, "p", next(text), next(text), next(text), next(text)) for rank in ("median", "best", "worst"))
    assert e.copying is not None and e.copying.originality is not None
    spans = [Span("tuned", next(text), 9, 0, next(text), next(text), 0, next(text), next(text), next(text), 1) for _ in range(10)]
    copying = dataclasses.replace(e.copying, originality=dataclasses.replace(e.copying.originality, longest_spans=spans))
    recipe = e.recipe.model_copy(
        update={"name": next(text), "data": e.recipe.data.model_copy(update={"source": f"/tmp/{next(text)}.csv"})}
    )
    texts = {"n_not_reproduced": 1, "not_reproduced": [next(text)], "little_context_share": 0.6}
    provenance = {**e.provenance, "base": next(text), "adapter": next(text), "texts": texts}
    e = dataclasses.replace(e, style=RunStyle(style, pairs, style), copying=copying, recipe=recipe, provenance=provenance)
    return e, {**judged.verdict, "provenance": {**judged.verdict["provenance"], "base": next(text)}}, folder


def written(folder: Path, given: list[str] | None = None) -> Path:
    e, verdict, folder = full(folder, given)
    path = folder / "report.html"
    write_text(path, page(gather(folder, e, verdict)))
    return path


# ---- in a browser ----


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("report") / "run")


class Opened:
    """A page, offline, with all that it says, asks for or runs."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        url = path.absolute().as_uri()
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda d: (self.complaints.append(d.message), d.dismiss()))
        self.page.on("request", lambda r: None if r.url in (url, "data:,") else self.complaints.append(r.url))
        self.page.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1 }")
        self.page.goto(url)

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_opens_offline_in_both_themes_and_never_scrolls_sideways(
    chromium: Any, report: Path, theme: str, width: int
) -> None:
    opened = Opened(chromium, report, color_scheme=theme, viewport={"width": width, "height": 800})
    opened.open_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 380) == (theme == "light")
    assert opened.complaints == []
    opened.context.close()


@in_browser
def test_its_parts_are_found_by_role_and_name_and_in_order(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    opened.open_all()
    find = opened.page.get_by_role
    assert find("heading", level=1).count() == 1
    seen = find("heading", level=2).all_inner_texts()
    assert seen == [part.title for part in SECTIONS if part.id != "readers"]  # nobody rated this run
    levels = opened.page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert (
        find("img", name=re.compile("Change of perplexity")).count() == find("img", name=re.compile("Learning curves")).count() == 1
    )
    assert find("region", name="Can we trust this?").get_by_text("passed").count() > 5
    assert find("table", name="Loss by step, nats a token").get_by_role("row").count() == 8
    opened.context.close()


@in_browser
def test_a_dot_leads_to_its_passage_and_opens_it(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    link = opened.page.locator("a[href='#document-3']")
    target = opened.page.locator("#document-3")
    assert not target.is_visible()
    link.focus()
    opened.page.keyboard.press("Enter")
    target.wait_for(state="visible")
    assert target.evaluate("e => { const b = e.getBoundingClientRect(); return b.top < innerHeight && b.bottom > 0 }")
    opened.context.close()


@in_browser
def test_the_keyboard_alone_reaches_every_link_and_opens_every_fold(chromium: Any, report: Path) -> None:
    opened = Opened(chromium, report)
    step = """() => { const e = document.activeElement; if (e === document.body || e.reached) return false; e.reached = true;
                      return e.tagName === 'SUMMARY' && !e.parentElement.open ? 'closed' : 'other' }"""
    for _ in range(600):
        opened.page.keyboard.press("Tab")
        found = opened.page.evaluate(step)
        if not found:
            break
        if found == "closed":
            opened.page.keyboard.press("Enter")
    missed = "[...document.querySelectorAll('a, summary')].filter(e => !e.reached).map(e => e.textContent)"
    assert opened.page.evaluate(missed) == []
    assert opened.page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    opened.context.close()


# Of the like many, a few are enough: axe takes a minute for all.
FEW_OF_EACH = """for (const [of, n] of [['.passage', 24], ['.tokens', 24], ['tbody', 6], ['.losses', 6], ['.checks', 6]])
  document.querySelectorAll(of).forEach(e => [...e.children].slice(n).forEach(child => child.remove()));
[...document.querySelectorAll('details details')].slice(4).forEach(e => e.remove())"""


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(chromium: Any, report: Path, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    opened = Opened(chromium, report, color_scheme=theme)
    opened.page.evaluate(FEW_OF_EACH)
    opened.open_all()
    found = axe.run(opened.page).response
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")] == []
    opened.page.evaluate("document.querySelector('p.how').style = 'color: #888; background: #999'")
    found = axe.run(opened.page, context="p.how", options={"runOnly": ["color-contrast"]}).response
    assert [v["impact"] for v in found["violations"]] == ["serious"]
    opened.context.close()


@in_browser
def test_over_500_ways_to_inject_a_script_run_nothing(chromium: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "run", PAYLOADS)
    text = path.read_text(encoding="utf-8")
    there = sum(str(escape(shown(p))) in text for p in PAYLOADS)
    assert len(set(PAYLOADS)) == len(PAYLOADS) and there >= 500
    policy = re.search(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>\n", text)
    assert policy is not None and "default-src 'none'" in policy.group()
    write_text(path, text.replace(policy.group(), ""))  # the escaping must hold alone
    opened = Opened(chromium, path)
    opened.open_all()
    opened.page.evaluate("document.querySelectorAll('a, summary').forEach(e => { e.focus(); if (e.tagName === 'A') e.click() })")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("window.hits") == 0 and opened.complaints == []
    tags = set(opened.page.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.tagName.toLowerCase()))]"))
    assert not tags & {"script", "iframe", "object", "video", "math", "input", "marquee", "img", "base"}
    acting = "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/.test(a.name) || /script:/.test(a.value)).length"
    assert opened.page.evaluate(acting) == 0
    opened.context.close()


@in_browser
def test_the_same_watch_sees_a_payload_that_was_not_escaped(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "naive.html"
    write_text(path, "<!doctype html><title>x</title>" + "".join(PAYLOADS[: len(ACTS) * 3]))
    opened = Opened(chromium, path)
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("window.hits") > 3 and opened.complaints
    opened.context.close()


# ---- what it shows ----


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def visible(html: str) -> str:
    """The words of a page, without the style sheet."""
    return Markup(re.sub(r"<[^>]+>", " ", html.split("<body>")[1])).unescape()


@in_browser
@pytest.mark.parametrize(
    ("variant", "code", "remedy", "command"),
    [
        ("wrapped", "A01", "before PeftModel.from_pretrained is called", "galvan evaluate galvan/spark ADAPTER --data FILE"),
        ("dead", "B07", "load the trained adapter", "galvan check galvan/spark ADAPTER"),
    ],
)
def test_the_first_screen_of_a_refused_run_says_what_was_wrong_and_what_to_do(
    chromium: Any, tmp_path: Path, variant: str, code: str, remedy: str, command: str
) -> None:
    judge(make(tmp_path, variant))
    opened = Opened(chromium, tmp_path / "report.html", viewport={"width": 1280, "height": 800})
    seen = opened.page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,p,li,pre')].filter(e => e.getBoundingClientRect().bottom < innerHeight).map(e => e.innerText).join(' ')"
    )
    assert all(
        said in seen.lower()
        for said in map(str.lower, ("The comparison is refused", code, "What was wrong", "What to do first", remedy, command))
    )
    opened.context.close()


@pytest.mark.parametrize("variant", ["wrapped", "dead", "control failed"])
def test_a_refused_run_shows_no_perplexity_and_no_loss(tmp_path: Path, variant: str) -> None:
    judge(make(tmp_path, variant))
    html = text_of(tmp_path)
    assert not re.search(r"perplexity[^.]{0,40}\d", visible(html).lower())
    for absent in ("curves", "documents", "power", "style", "copying", "retention", "pairs"):
        assert f'<section id="{absent}"' not in html
    assert not (tmp_path / "pictures" / "curves.svg").exists()


def test_a_healthy_run_shows_the_figures_of_its_verdict(tmp_path: Path) -> None:
    judged = judge(make(tmp_path))
    words = " ".join(visible(text_of(tmp_path)).split())
    test = judged.evidence.test
    assert test is not None
    assert f"Held-out perplexity fell from {test.base_perplexity:.2f} to {test.tuned_perplexity:.2f}" in words
    assert "48 of 48 fell" in words and "improved" in words and "IMPROVED" not in words
    assert all(finding.title in words for finding in judged.evidence.findings)


def test_the_page_is_the_same_bytes_each_time_and_under_two_megabytes(tmp_path: Path) -> None:
    folder = make(tmp_path, Plan(documents=400, sources=8))
    lengths = {r["document"]: r["n_tokens"] for r in pq.read_table(folder / "scores.parquet").to_pylist() if r["split"] == "test"}
    pieces = [{"document": name, "head": "", "pieces": ["<word>"] * n} for name, n in lengths.items()]
    pq.write_table(pa.Table.from_pylist(pieces), folder / "pieces.parquet")
    judge(folder)
    first = text_of(folder)
    judge(folder)
    assert text_of(folder) == first and len(first.encode()) < 2_000_000
    assert first.count('class="losses"') == 1 and first.count('href="#document-') == MOST_SHOWN


def test_a_token_is_coloured_by_what_it_gained_worked_by_hand(tmp_path: Path) -> None:
    """Tokens of 3, 3, 3 nats under the base and 0.4, 2.9, 4.5 under the tuned model: +2.6 (most), +0.1 (none), -1.5 (more)."""
    folder = make(tmp_path, Plan(documents=12))
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    name = next(r["document"] for r in table if r["split"] == "test")
    for row in table:
        if row["split"] == "test" and row["document"] == name and row["arm"] in ("base", "tuned"):
            tokens = [3.0, 3.0, 3.0] if row["arm"] == "base" else [0.4, 2.9, 4.5]
            row |= {"token_nll_nats": tokens, "n_tokens": 3, "n_bytes": 3 * BYTES_PER_TOKEN, "nll_nats": sum(tokens)}
    table = [r for r in table if r["arm"] in ("base", "tuned") and r["split"] == "test"]
    pq.write_table(pa.Table.from_pylist(table, schema=pq.read_schema(folder / "scores.parquet")), folder / "scores.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"document": name, "head": "It ", "pieces": ["was", " a", " night"]}]), folder / "pieces.parquet"
    )
    passage = next(p for p in passages(folder).shown if p.document == name)
    assert [(piece.text, piece.shade) for piece in passage.pieces] == [("was", "g3"), (" a", ""), (" night", "l2")]
    assert passage.head == "It " and passage.gain == pytest.approx((9 - 7.8) / 3) and not passage.more


def test_pieces_of_other_tokens_colour_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path, Plan(documents=12))
    name = passages(folder).shown[0].document
    pq.write_table(pa.Table.from_pylist([{"document": name, "head": "", "pieces": ["too", "few"]}]), folder / "pieces.parquet")
    assert all(p.pieces == () and p.text for p in passages(folder).shown)


@pytest.mark.parametrize(("n", "most"), [(0, 5), (3, 5), (5, 5), (6, 5), (1000, 60)])
def test_of_many_documents_the_first_the_last_and_those_between_are_shown(n: int, most: int) -> None:
    picked = evenly(n, most)
    assert len(picked) == len(set(picked)) == min(n, most) and picked == sorted(picked)
    assert not picked or (picked[0], picked[-1]) == (0, n - 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 10, [0, 5, 10]), (3.9, 4.3, [3.9, 4.0, 4.1, 4.2, 4.3]), (0, 138, [0, 50, 100])]
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_code_stands_between_two_backticks_and_a_lone_one_stays() -> None:
    assert coded("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert coded("a lone ` <b>") == "a lone ` &lt;b&gt;"


HOSTILE_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" onload="hit()"><script>hit()</script><rect width="1" onclick="hit()" fill="url(#x)" fill-opacity="0.5"/>'
    '<a href="javascript:hit()"><text>x</text></a><foreignObject><body xmlns="http://www.w3.org/1999/xhtml" onload="hit()"/></foreignObject>'
    '<text style="background:url(http://198.51.100.1/)">&lt;script&gt;</text><use href="#x"/><animate attributeName="href" to="javascript:hit()"/></svg>'
)  # fmt: skip


def test_a_picture_from_a_run_keeps_its_shapes_and_nothing_that_acts() -> None:
    assert trusted(HOSTILE_SVG) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="1" fill-opacity="0.5"></rect><text>&lt;script&gt;</text></svg>'
    )
    entity = '<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>'
    assert [trusted(bad) for bad in (entity, "not a picture", "<svg/>", "<html/>")] == [None] * 4


def test_a_page_of_a_run_without_the_texts_of_its_tokens_says_so(tmp_path: Path) -> None:
    judge(make(tmp_path))
    assert "did not keep the texts of its tokens" in text_of(tmp_path)
