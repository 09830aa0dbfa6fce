"""What `apply` shows: a live line a resource on a terminal, plain lines elsewhere; each finished stage leaves one."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmops.local.stories import Chapter, Ending, Moment, Story
from lmops.plan import Manifest

EVERY_SECONDS, EVERY_PERCENT = 10.0, 10
WAITING_SECONDS = 2.0
"""How long a resource waits before a plain line says for what."""
BAR = 24
STAGE = 9


class Pace(NamedTuple):
    """What the last plain line was about, and when it was."""

    sign: str
    since: float
    percent: int
    told: bool


class Screen:
    """Tells what happens to several resources, each thing once."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.told: set[tuple[str, str]] = set()
        self.paces: dict[str, Pace] = {}
        self.moments: dict[str, Moment] = {}
        self.live: Live | None = None

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live = Live(console=self.console, get_renderable=self._lines, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def show(self, name: str, status: Manifest, story: Story) -> None:
        """Tells what is new of a resource."""
        for chapter in news(story.chapters(status), self.told, name):
            if chapter.ended or not self.live:
                self.say(line(name, chapter.stage, chapter.sentence))
        if story.is_over(status):
            self.leave(name)
            return
        self.moments[name] = story.moment(status)
        if not self.live:
            self._plain(name, self.moments[name])

    def skip(self, name: str, status: Manifest, story: Story) -> None:
        """Takes what has happened so far as told."""
        news(story.chapters(status), self.told, name)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def leave(self, name: str) -> None:
        """Shows nothing more of a resource."""
        self.moments.pop(name, None)
        if self.live:
            self.live.refresh()

    def end(self, ending: Ending) -> None:
        """The figures of a resource and what to do next, or why it failed."""
        if ending.rows:
            self.console.print(figures(ending), soft_wrap=not self.console.is_terminal)
        for word, text in ending.lines:
            self.say(f"  {word:<9} {text}")

    def _plain(self, name: str, moment: Moment) -> None:
        """One line when a wait has lasted, or after ten seconds or ten percent of progress."""
        now, sign, percent = self.clock(), f"{moment.stage} {moment.waiting}", moment.percent or 0
        pace = self.paces.get(name)
        if pace is None or pace.sign != sign:
            self.paces[name] = Pace(sign, now, percent, told=False)
        elif moment.waiting and not pace.told and now - pace.since >= WAITING_SECONDS:
            self.paces[name] = pace._replace(told=True)
            self.say(line(name, moment.stage, moment.waiting))
        elif percent != pace.percent and (now - pace.since >= EVERY_SECONDS or percent - pace.percent >= EVERY_PERCENT):
            self.paces[name] = Pace(sign, now, percent, told=True)
            self.say(line(name, moment.stage, said(moment)))

    def _lines(self) -> Group:
        return Group(*(live_line(name, moment) for name, moment in self.moments.items()))


def news(chapters: list[Chapter], told: set[tuple[str, str]], name: str) -> list[Chapter]:
    """The chapters that were not told yet; they count as told from now on."""
    fresh = [chapter for chapter in chapters if (name, chapter.key) not in told]
    told |= {(name, chapter.key) for chapter in fresh}
    return fresh


def line(name: str, stage: str, text: str) -> str:
    """One plain line."""
    return f"{name}   {stage:<{STAGE}} {text}"


def said(moment: Moment) -> str:
    """A moment in words."""
    return "  ".join([*([] if moment.percent is None else [f"{moment.percent} %"]), *moment.details])


def live_line(name: str, moment: Moment) -> Table:
    """A moment as a line with a bar."""
    row = Table.grid(padding=(0, 1))
    head = Text(f"{name}   {moment.stage:<{STAGE}}", no_wrap=True)
    if moment.waiting or moment.percent is None:
        row.add_row(head, Text(moment.waiting, style="yellow") if moment.waiting else Text(said(moment)))
    else:
        bar = ProgressBar(total=100, completed=moment.percent, width=BAR, pulse=moment.percent == 0)
        row.add_row(head, bar, Text(f"{moment.percent:>3} %  {'  '.join(moment.details)}"))
    return row


def figures(ending: Ending) -> Table:
    """The table of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2), header_style="")
    for index, heading in enumerate(ending.headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in ending.rows:
        table.add_row(*row)
    return table
