"""The page in a real browser: drop, watch, ask, look at a moment, reload, ask; what goes wrong.

Runs where Chromium is installed: /usr/bin/chromium, CHROMIUM, or the one of playwright.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtake.library import Library
from longtake.stored import Settings
from tests.clips import write_clip, write_sound
from tests.serve.running import bundled, running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow
QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
NAMED = "--host-resolver-rules=MAP longtake.test 127.0.0.1"
TOKEN = "a-long-word-that-nobody-guesses"
SECONDS = 120_000  # of a busy machine, in milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        found = os.environ.get("CHROMIUM") or shutil.which("chromium") or str(own)
        if not Path(found).exists():
            pytest.skip(
                "no Chromium is installed (apt install chromium, playwright install chromium)"
            )
        made = driver.chromium.launch(executable_path=found, args=[*QUIET.split(), NAMED])
        yield made
        made.close()


class Page:
    """A page that fails the test when its scripts do."""

    def __init__(self, browser: object, base: str, **options: object) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(SECONDS)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self.said)
        self.page.goto(base)

    def said(self, message: object) -> None:
        # of a header that browsers only heed over https they say so
        quiet = ("Failed to load resource", "Cross-Origin-Opener-Policy header has been ignored")
        if message.type == "error" and not any(text in message.text for text in quiet):
            self.faults.append(message.text)

    def __enter__(self) -> object:
        return self.page

    def __exit__(self, kind: object, *rest: object) -> None:
        self.context.close()
        if kind is None:
            assert self.faults == []


def ask(page: object, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def newest(page: object) -> str:
    page.wait_for_selector("#answers > li:first-child:not(.waiting)")
    return page.inner_text("#answers > li:first-child .answer")


def test_drop_watch_ask_click_reload_ask_again(browser: object, tmp_path: Path, clip: Path) -> None:
    shots = os.environ.get("LONGTAKE_SHOTS")

    def shot(page: object, name: str) -> None:
        if shots:
            page.screenshot(path=f"{shots}/{name}.jpeg", type="jpeg", quality=60)

    film = Path(os.environ.get("LONGTAKE_SHOTS_FILM") or clip)
    view = {"viewport": {"width": 1280, "height": 800}}
    with running(tmp_path) as server, Page(browser, server.base, **view) as page:
        page.wait_for_selector(".link.on")
        page.set_input_files("#file", film)
        page.wait_for_selector("li.watching .what:has-text('%')")
        shot(page, "page-1-watch")
        page.wait_for_selector("#open:not([hidden])")
        ask(page, "What word is on the card?")
        word = newest(page)
        page.wait_for_selector(".moment")
        shot(page, "page-2-ask")
        page.click(".moment.heaviest")
        at = float(page.get_attribute(".track", "aria-valuenow"))
        assert at > 1, "the player went to the moment"
        page.wait_for_load_state("networkidle")
        shot(page, "page-3-moment")
        page.reload()
        page.wait_for_selector("#answers > li")
        assert newest(page) == word, "past questions survive a reload"
        ask(page, "What number is on the card?")
        page.wait_for_selector("#answers > li:nth-child(2)")
        number = newest(page)
        if film == clip:
            assert (word, number) == ("RIVER", "47")
        assert page.locator("#answers > li").count() == 2
        page.wait_for_selector("#answers > li:first-child .moment")
        page.wait_for_load_state("networkidle")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.moment img')].every(one => one.naturalWidth > 0)"
        )
        shot(page, "page-4-again")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_load_state("networkidle")
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 390, "nothing is wider than a phone"
        shot(page, "page-5-phone")


def test_words_of_people_and_models_are_never_markup(
    browser: object, tmp_path: Path, clip: Path
) -> None:
    film = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    film.write_bytes(clip.read_bytes())
    with running(tmp_path) as server, Page(browser, server.base) as page:
        page.set_input_files("#file", film)
        page.wait_for_selector("#open:not([hidden])")
        assert page.inner_text("#video-title").startswith("<img src=x")
        ask(page, "<b onclick=alert(1)>What</b> word is on the card?")
        newest(page)
        assert page.locator("#answers b, #videos [onerror]").count() == 0
        assert "<b onclick" in page.inner_text("#answers h3")


def test_the_keyboard_is_enough(browser: object, tmp_path: Path, clip: Path) -> None:
    with running(tmp_path) as server, Page(browser, server.base) as page:
        server.watched(clip, max_frames=8)
        page.wait_for_selector("#videos button.open")
        page.focus("#file")
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.className") == "open":
                break
        page.keyboard.press("Enter")
        page.wait_for_selector("#open:not([hidden])")
        page.focus(".track")
        page.keyboard.press("End")
        assert float(page.get_attribute(".track", "aria-valuenow")) > 5
        page.keyboard.press("Home")
        assert float(page.get_attribute(".track", "aria-valuenow")) == 0
        page.focus("#question")
        page.keyboard.type("What word is on the card?")
        page.keyboard.press("Enter")
        assert newest(page) == "RIVER"
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('button, input, textarea, [role=slider]')]"
            ".filter(one => !(one.getAttribute('aria-label') || one.textContent.trim()"
            " || one.labels?.length || one.ariaHidden)).map(one => one.outerHTML)"
        )
        assert unnamed == []


def test_what_goes_wrong_is_said(browser: object, tmp_path: Path, clip: Path) -> None:
    with running(tmp_path) as server:
        with Page(browser, server.base) as page:
            page.set_input_files("#file", write_sound(tmp_path / "sound.mp4"))
            page.wait_for_selector(".note.bad")
            assert "sound.mp4" in page.inner_text(".note.bad")
            page.set_input_files("#file", clip)
            page.wait_for_selector("#open:not([hidden])")
            page.wait_for_selector(".note:not(.bad)", state="detached")
            copy = shutil.copy(clip, tmp_path / "other.mp4")
            page.set_input_files("#file", copy)
            page.wait_for_selector(".note:has-text('other.mp4 is here already, as card.mp4')")
            full = '{"error":{"message":"64 questions are waiting already","code":"queue_full"}}'
            times: list[int] = []

            def answer(route: object) -> None:
                times.append(1)
                if len(times) == 1:
                    kind = {"Retry-After": "1", "Content-Type": "application/json"}
                    route.fulfill(status=429, headers=kind, body=full)
                else:
                    route.continue_()

            page.route("**/v1/chat/completions", answer)
            ask(page, "What word is on the card?")
            page.wait_for_selector(".answer:has-text('The server is busy')")
            assert newest(page) == "RIVER", "asked again as soon as it was let"
        left = Page(browser, server.base)
        left.page.wait_for_selector(".link.on")
    left.page.wait_for_selector("#banner:not([hidden])")
    assert "does not answer" in left.page.inner_text("#banner")
    left.context.close()


def test_a_token_is_asked_for_once(browser: object, tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, token=TOKEN) as server, Page(browser, server.base) as page:
        server.watched(clip, max_frames=8)
        page.wait_for_selector("#token[open]")
        page.fill("#token-word", "no")
        page.press("#token-word", "Enter")
        page.wait_for_selector("#token-bad:not([hidden])")
        page.fill("#token-word", TOKEN)
        page.press("#token-word", "Enter")
        page.click("#videos button.open")
        page.wait_for_selector("#open:not([hidden])")
        ask(page, "What word is on the card?")
        assert newest(page) == "RIVER"
        # thumbnails and the player come without a header, by the session
        page.wait_for_load_state("networkidle")
        shown = page.evaluate("() => document.querySelector('#videos img').naturalWidth")
        assert shown > 0


def test_pictures_come_back_once_the_session_has_ended(
    browser: object, tmp_path: Path, clip: Path
) -> None:
    with running(tmp_path, token=TOKEN) as server, Page(browser, server.base) as page:
        server.watched(clip, max_frames=8)
        page.wait_for_selector("#token[open]")
        page.fill("#token-word", TOKEN)
        page.press("#token-word", "Enter")
        page.wait_for_selector("#videos button.open")
        come = "() => document.querySelector('#videos img').naturalWidth > 0"
        page.wait_for_function(come)
        object.__setattr__(server.service.keys, "_key", b"of another start")
        page.reload()
        page.wait_for_selector("#videos button.open")
        page.wait_for_function(come)
        object.__setattr__(server.service.keys, "_key", b"of one more, while the page is open")
        page.click("#videos button.open")
        page.wait_for_function("() => document.querySelector('.strip')?.naturalWidth > 0")
        page.wait_for_function("() => document.querySelector('#player').readyState > 0")


def test_a_memory_without_pictures_says_so(browser: object, tmp_path: Path, clip: Path) -> None:
    system = bundled()
    memory = system.watch(clip, max_frames=8)
    # no thumbnails, and a file that a server may not read
    Library(tmp_path / "library").save(
        memory, system=system, source=clip, settings=Settings(max_frames=8)
    )
    with running(tmp_path) as server, Page(browser, server.base) as page:
        page.click("#videos button.open")
        page.wait_for_selector("#unseen", state="visible")
        page.wait_for_function("() => [...document.images].every(one => one.complete)")
        assert page.locator("#videos img.missing").count() == 1
        shown = "one => !one.naturalWidth && getComputedStyle(one).visibility !== 'hidden'"
        told = f"() => [...document.images].filter(one => one.src).filter({shown}).length"
        assert page.evaluate(told) == 0, "no sign of a broken picture"
        server.watched(write_clip(tmp_path / "other.mp4", 12), max_frames=4)
        page.reload()
        page.click("#videos li:first-child button.open")
        page.wait_for_function("() => document.querySelector('.strip')?.naturalWidth > 0")
        assert page.locator("#unseen").is_hidden()


def test_it_works_at_an_address_without_https(browser: object, tmp_path: Path, clip: Path) -> None:
    with running(tmp_path, hosts=("longtake.test",)) as server:
        server.watched(clip, max_frames=8)
        base = f"http://longtake.test:{server.port}"
        with Page(browser, base) as page:
            assert page.evaluate("() => isSecureContext") is False
            page.click("#videos button.open")
            page.wait_for_selector("#open:not([hidden])")
            ask(page, "What word is on the card?")
            assert newest(page) == "RIVER"
