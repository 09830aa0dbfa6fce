"""The page for people, in a real browser that reaches nothing but the server, by keyboard alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

import browser
import served
from served import NAME, Server, Volumes

pytestmark = pytest.mark.slow


class Page:
    """The page as one sees it who has no mouse."""

    def __init__(self, chrome: Chrome, url: str) -> None:
        self.chrome = chrome
        chrome.get(url)
        self.until(lambda: "window of" in self.said("about") or self.is_shown("keys"))

    def said(self, name: str) -> str:
        """What an element shows."""
        return self.chrome.find_element(By.ID, name).text

    def is_shown(self, name: str) -> bool:
        """Whether an element is to be seen."""
        return self.chrome.find_element(By.ID, name).is_displayed()

    def until(self, claim: Callable[[], object]) -> None:
        """Waits until something is true."""
        WebDriverWait(self.chrome, 30, 0.02).until(lambda _: claim())

    def go_to(self, name: str) -> None:
        """Moves on with Tab until the element has the focus."""
        for _ in range(30):
            if self.chrome.switch_to.active_element.get_attribute("id") == name:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not lead to #{name}")

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        ActionChains(self.chrome).send_keys(*keys).perform()

    def enter(self, name: str, text: str) -> None:
        """Replaces what a field holds."""
        self.go_to(name)
        ActionChains(self.chrome).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).send_keys(text).perform()

    def ask(self, text: str) -> None:
        """Types a text and presses the button."""
        self.enter("text", text)
        self.go_to("go")
        self.press(Keys.ENTER)

    def answer(self) -> str:
        """The answer, once it is whole."""
        self.until(lambda: self.said("answer") and self.chrome.find_element(By.ID, "go").is_enabled())
        return self.said("answer")


Open = Callable[[str], Page]


TOLD_BY_CHROME = (
    "Failed to load resource: the server resp",
    "/stats - Failed to load resource: net::ERR_CONNECTION_REFUSED",
)
"""What no page can keep off the console: a request that was refused, and a server that a test has stopped."""


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Open]:
    """Opens pages. Afterwards: nothing was asked of anybody else, and the console is empty."""
    with browser.browsing(tmp_path) as chrome:
        urls: list[str] = []

        def visited(url: str) -> Page:
            urls.append(url)
            return Page(chrome, url)

        yield visited
        asked = browser.requested(chrome)
        assert {f"{url}/stats" for url in urls} <= set(asked)
        assert [one for one in asked if not one.startswith(tuple(f"{url}/" for url in urls))] == []
        assert [one for one in browser.complaints(chrome) if not any(known in one for known in TOLD_BY_CHROME)] == []


def test_a_text_is_classified_and_the_live_figures_count_it(visit: Open, classifier: Server):
    with classifier.client() as http:
        known = http.post("/v1/classify", json={"input": "a wonderful, moving film"}).json()["data"][0]
        before = http.get("/stats").json()["requests"]
    page = visit(classifier.url)

    page.ask("a wonderful, moving film")

    lines = page.answer().splitlines()
    assert lines[0] == known["label"]
    assert lines[1:] == [f"{name}  {100 * value:.1f} %" for name, value in known["probabilities"].items()]
    figures = r"Requests\n(\d+)\nPer second\n([\d.]+)\nHalf within\n[\d.]+ m?s\n95 % within\n[\d.]+ m?s\nRefused"
    page.until(lambda: (found := re.match(figures, page.said("pace"))) and int(found[1]) > 0 and float(found[2]) > 0)
    with classifier.client() as http:
        assert http.get("/stats").json()["requests"] > 0 <= before
    assert (page.is_shown("writing"), page.is_shown("keys"), page.is_shown("stop")) == (False, False, False)


def test_the_passport_is_shown(visit: Open, classifier: Server):
    with classifier.client() as http:
        about = http.get("/passport").json()["model"]

    facts = visit(classifier.url).said("facts")

    assert facts.splitlines()[:4] == [
        f"Model {about['uri']}",
        "Task SequenceClassification",
        f"Digest {about['digest']}",
        "Classes negative, positive",
    ]


def test_a_text_is_written_piece_by_piece_and_can_be_stopped(visit: Open, writer: Server):
    page = visit(writer.url)
    page.enter("tokens", "300")
    page.enter("seed", "3")
    page.chrome.execute_script(SEEN)

    page.ask("The police")
    page.until(lambda: len(page.said("answer")) > 40)
    page.go_to("stop")
    page.press(Keys.ENTER)

    stopped = page.answer()
    seen = page.chrome.execute_script("return window.seen")
    assert len(seen) > 5
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    with writer.client() as http:
        asked = {"model": NAME, "prompt": "The police", "seed": 3, "max_tokens": 300}
        whole = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        page.until(lambda: http.get("/stats").json()["working"] == 0)
    assert len(stopped) < len("The police" + whole)
    assert page.chrome.execute_script("return document.getElementById('answer').textContent").startswith("The police")
    assert ("The police" + whole).startswith(seen[-1])


SEEN = """
window.seen = [];
new MutationObserver(() => window.seen.push(document.getElementById("answer").textContent))
  .observe(document.getElementById("answer"), {childList: true, characterData: true, subtree: true});
"""
"""Keeps each state of the answer."""


def test_masks_are_filled_and_what_is_wrong_is_one_sentence(visit: Open, volumes: Volumes, masked: str, tmp_path: Path):
    with served.serving(volumes, served.document(masked), tmp_path) as server:
        page = visit(server.url)
        page.ask("the film was [MASK] and [MASK] .")
        filled = page.answer().splitlines()
        page.ask("no mask at all")
        page.until(lambda: "has no" in page.said("answer"))
        wrong = page.answer()

        assert [line for line in filled if line.startswith("Mask")] == ["Mask 1", "Mask 2"]
        assert len([line for line in filled if line.endswith("%")]) == 10
        assert wrong == "Input 0 has no [MASK]. Write [MASK] where the model shall find a word."
        assert "bad" in str(page.chrome.find_element(By.ID, "answer").get_attribute("class"))


def test_a_key_is_asked_for_where_one_is_needed(visit: Open, volumes: Volumes, reviews: str, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "first").write_text("sesame\n")
    known = {"LMOPS_API_KEYS": str(keys)}
    with served.serving(volumes, served.document(reviews), tmp_path, known) as server:
        page = visit(server.url)
        assert "carries no key" in page.said("about")
        page.enter("key", "sesame")
        page.press(Keys.TAB)
        page.until(lambda: "Classifies" in page.said("about"))
        page.chrome.execute_script("document.activeElement.blur()")
        page.ask("a fine film")

        assert page.answer().splitlines()[0] in ("negative", "positive")


def test_every_field_has_a_name_and_every_state_can_be_heard(visit: Open, classifier: Server):
    page = visit(classifier.url)

    unnamed = page.chrome.execute_script(
        "return [...document.querySelectorAll('input,textarea,button')]"
        ".filter(e => !(e.labels?.length || e.textContent.trim())).map(e => e.id)"
    )
    assert unnamed == []
    assert page.chrome.execute_script("return document.documentElement.lang") == "en"
    assert page.chrome.find_element(By.ID, "answer").get_attribute("aria-live") == "polite"
