"""The pages in a real browser, by keyboard alone, at three widths: no error on the console, no request to anywhere else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="galvan app needs the extra [app]")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from app_run import make_run  # noqa: E402
from galvan.app.ratings import ratings  # noqa: E402
from models_for_tests import save_adapter, save_base, tiny_mistral  # noqa: E402
from test_app import PAYLOADS, Process  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page whose every complaint and every request is written down."""

    def __init__(self, browser: Any, origin: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: self.complaints.append(f"dialog {d.message}"))
        self.page.on("request", lambda r: None if r.url.startswith(origin) else self.complaints.append(r.url))

    def tab_to(self, role: str, name: str) -> None:
        """Press Tab until the element has the focus."""
        target = self.page.get_by_role(role, name=name, exact=True)
        for _ in range(30):
            if target.evaluate("e => e === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {role} {name}")


def process(run: Path) -> Any:
    """A server whose one-time link is still unused."""
    return Process(run, enter=False)


def in_both_themes(page: Any) -> None:
    """The page is light or dark as asked, and fits its window."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 380) == (theme == "light")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1180), (1440, 900)])
def test_a_reader_judges_by_keyboard_alone(chromium: Any, tmp_path: Path, width: int, height: int) -> None:
    server = process(make_run(tmp_path / "run", 8))
    try:
        watched = Watched(chromium, server.origin, viewport={"width": width, "height": height})
        page, press = watched.page, watched.page.keyboard
        page.goto(server.url)
        assert "token" not in page.url
        watched.tab_to("textbox", "Your name, or any name that you will use again")
        press.type("Ada")
        press.press("Enter")
        page.get_by_role("heading", name="Pair 1 of 8").wait_for()
        in_both_themes(page)
        assert page.evaluate("document.cookie") == ""
        for number, choice in enumerate(("Left", "Right", "Tie", "Both bad"), 2):
            watched.tab_to("button", choice)
            press.press("Enter")
            page.get_by_role("heading", name=f"Pair {number} of 8").wait_for()
        watched.tab_to("textbox", "Why? (if you like)")
        press.type("1234 is a reason, not four votes")
        watched.tab_to("button", "Undo the last answer")
        press.press("Enter")
        page.get_by_role("heading", name="Pair 4 of 8").wait_for()
        page.wait_for_load_state()  # the script that knows the key is deferred
        press.press("2")
        page.get_by_role("heading", name="Pair 5 of 8").wait_for()
        watched.tab_to("button", "Stop and show the result")
        press.press("Enter")
        page.get_by_role("heading", name="What readers said").wait_for()
        page.wait_for_load_state()
        in_both_themes(page)
        assert watched.complaints == []
        watched.context.close()
    finally:
        server.kill()
    found = ratings(tmp_path / "run")
    assert found is not None and found.undone == 1
    assert sum(rate.n for rate in (found.tuned, found.author) if rate is not None) == 4


def test_500_payloads_run_nothing_in_a_browser_and_pages_work_without_javascript(chromium: Any, tmp_path: Path) -> None:
    """Fifty in each prompt, others in the texts, the names of people and the recipe."""
    texts = {"bbb": PAYLOADS[:10], "ttt": PAYLOADS[10:20], "aaa": PAYLOADS[20:30]}
    run = make_run(
        tmp_path / "run", 10, lambda kind, n: f"{texts[kind][n]} word", lambda n: " ".join(PAYLOADS[50 * n : 50 * n + 50])
    )
    (run / "recipe.yaml").write_text("name: x\n")
    server = process(run)
    seen: list[str] = []
    try:
        for javascript in (True, False):
            watched = Watched(chromium, server.origin, java_script_enabled=javascript)
            if javascript:
                watched.page.goto(server.url)
                state = watched.context.storage_state()
            else:
                watched.context.add_cookies(state["cookies"])
                watched.page.goto(server.origin)
                watched.page.goto(f"{server.origin}/review/rater")
            watched.page.get_by_role("textbox").fill(f"<b onclick=alert(1)>{javascript}</b>")
            watched.page.get_by_role("button", name="Begin").click()
            for number in range(1, 11):
                watched.page.get_by_role("heading", name=f"Pair {number} of 10").wait_for()
                seen.append(watched.page.get_by_role("region", name="The beginning").inner_text())
                watched.page.get_by_role("button", name="Skip").click()
            watched.page.get_by_role("heading", name="All 10 pairs read").wait_for()
            assert watched.complaints == []
            watched.context.close()
        plain = [p for p in PAYLOADS if p.isprintable() and "  " not in p]
        assert len(plain) > 400 and all(any(p in text for text in seen) for p in plain)  # they were there, as text
    finally:
        server.kill()


def test_the_watch_sees_a_request_elsewhere_and_a_script_that_runs(chromium: Any, tmp_path: Path) -> None:
    """The check itself: a page with what ours must not have is complained about."""
    (tmp_path / "bad.html").write_text("<script>console.error('ran')</script><img src='http://127.0.0.1:9/x.png'>")
    watched = Watched(chromium, "file://")
    watched.page.goto((tmp_path / "bad.html").as_uri())
    assert any("ran" in c for c in watched.complaints) and any(":9/x.png" in c for c in watched.complaints)
    watched.context.close()


def test_the_playground_writes_both_sides_by_keyboard_and_without_javascript(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    save_base(tmp_path / "base", tiny_mistral(0))
    save_adapter(run / "adapter", tiny_mistral(0))
    (run / "recipe.yaml").write_text(f"model: {{base: {tmp_path / 'base'}, device: cpu, dtype: float32}}\n")
    server = Process(run, enter=False, review_only=False)
    try:
        texts = []
        for javascript in (True, False):
            watched = Watched(chromium, server.origin, java_script_enabled=javascript, viewport={"width": 360, "height": 740})
            page = watched.page
            if javascript:
                page.goto(server.url)
                state = watched.context.storage_state()
            else:
                watched.context.add_cookies(state["cookies"])
            page.goto(f"{server.origin}/playground")
            page.wait_for_load_state()
            page.get_by_role("spinbutton", name="Most tokens").fill("12")
            page.get_by_role("textbox", name="How shall the text begin?").fill("<script>alert(1)</script> The lamp")
            page.get_by_role("button", name="Write").focus()
            page.keyboard.press("Enter")
            sync_api.expect(page.get_by_role("status")).to_have_text("Done", timeout=15_000)
            texts.append([page.get_by_role("region", name=name, exact=True).inner_text() for name in ("Base", "Tuned")])
            assert watched.complaints == []
            watched.context.close()
        assert texts[0] == texts[1] and texts[0][0] != texts[0][1].replace("Tuned", "Base")
    finally:
        server.kill()


def serious(page: Any) -> list[tuple[str, str]]:
    """What axe-core calls serious or critical, in both themes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    found = []
    for theme, only in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=theme)
        found += axe.run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]


def test_axe_finds_no_serious_fault_on_any_page(chromium: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2)
    save_base(tmp_path / "base", tiny_mistral(0))
    save_adapter(run / "adapter", tiny_mistral(0))
    (run / "recipe.yaml").write_text(f"model: {{base: {tmp_path / 'base'}, device: cpu, dtype: float32}}\n")
    server = Process(run, enter=False, review_only=False, password="a long enough password")
    try:
        context = chromium.new_context(bypass_csp=True)  # axe is a script of the test's, which our policy would keep out
        page = context.new_page()
        found: dict[str, list[tuple[str, str]]] = {}

        def look(heading: str) -> None:
            page.get_by_role("heading", level=1, name=heading).wait_for()
            found[heading] = serious(page)

        page.goto(server.origin)
        look("Password")
        page.get_by_label("The password").fill("a long enough password")
        page.keyboard.press("Enter")
        look("Blind review")
        page.get_by_role("textbox").fill("Ada")
        page.keyboard.press("Enter")
        look("Pair 1 of 2")
        for _ in range(2):
            page.get_by_role("button", name="Left").click()
        look("All 2 pairs read")
        page.get_by_role("button", name="Stop and show the result").click()
        look("What readers said")
        page.get_by_role("link", name="Playground").click()
        look("Playground")
        page.goto(f"{server.origin}/nowhere")
        look("Not done")
        assert len(found) == 7 and {name: faults for name, faults in found.items() if faults} == {}
        page.evaluate("document.querySelector('h1').style = 'color: #888; background: #999'")
        assert serious(page)
        context.close()
    finally:
        server.kill()
