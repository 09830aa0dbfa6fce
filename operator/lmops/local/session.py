"""One `apply` at work: an engine for each resource, the progress endpoint, and what Ctrl-C means."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from aiohttp import web

from lmops.jobs.work import AnyWork
from lmops.kinds import JOBS
from lmops.local import accelerators
from lmops.local.display import Screen, line
from lmops.local.engine import Engine, Outcome, is_suspended
from lmops.local.home import Folder, Home
from lmops.local.kinds import KINDS
from lmops.local.kubelet import Node
from lmops.local.sandbox import PROGRESS
from lmops.local.volumes import Volumes
from lmops.plan import Key
from lmops.progress.endpoint import Endpoint
from lmops.settings import Settings

THROTTLE = timedelta(seconds=1)
NEVER = 1_000_000
INTERRUPTED = 130


class Session:
    """Works on resources until they have ended; follows those that another terminal works on."""

    def __init__(self, home: Home, folders: Iterable[Folder], screen: Screen, again: str) -> None:
        self.home, self.screen, self.again = home, screen, again
        self.folders = list(folders)
        self.engines: dict[Key, Engine] = {}
        self.following: set[asyncio.Task[int]] = set()
        self.interrupts = 0

    async def run(self) -> int:
        """The exit code: 0 when all have succeeded, 1 when one has not, 130 when interrupted."""
        self._listen_for_signals()
        runner, url = await self._endpoint()
        # A stop at the terminal is the user's will, so it never uses up a budget as evictions on a cluster do.
        settings = Settings(progress_url=PROGRESS, user=None, stops_without_progress=NEVER, vllm_image="")
        node = Node(accelerators.found(self.home), url)
        try:
            codes = await asyncio.gather(*(self._one(folder, settings, node) for folder in self.folders))
        finally:
            for engine in self.engines.values():
                engine.kubelet.kill_all()  # nothing is left but after a fault of our own
            await runner.cleanup()
        return INTERRUPTED if INTERRUPTED in codes else max(codes, default=0)

    async def read(self, job: Key) -> tuple[AnyWork, str]:
        """A job, for the progress endpoint. Within one process nothing comes between a read and its write."""
        engine = self.engines[job]
        return JOBS[job.kind](engine.parsed(), engine.settings), ""

    async def write(self, job: Key, status: dict[str, Any], version: str) -> None:
        """Takes a patch of the status in."""
        self.engines[job].merge(status)

    async def _one(self, folder: Folder, settings: Settings, node: Node) -> int:
        if not folder.engine.take():
            task = asyncio.ensure_future(self._follow(folder))
            self.following.add(task)
            with suppress(asyncio.CancelledError):
                return await task
            self.screen.say(line(str(folder), "", "goes on in the other terminal"))
            return INTERRUPTED
        try:
            if folder.applied():
                return await self._work(folder, settings, node)
            folder.remove()  # gone since it was named; to take its lock has made the folder anew
            return self._deleted(folder)
        finally:
            folder.engine.give_back()
            self.screen.leave(str(folder))

    async def _work(self, folder: Folder, settings: Settings, node: Node) -> int:
        kind = KINDS[folder.kind]
        engine = Engine(
            self.home, folder, kind, settings, node, lambda: self.screen.show(str(folder), engine.status, kind.story)
        )
        self.engines[Key(folder.kind, folder.namespace, folder.name)] = engine
        if self.interrupts:
            return INTERRUPTED
        outcome = await engine.run()
        match outcome:
            case Outcome.ENDED:
                return self._ended(folder)
            case Outcome.STOPPED:
                self._stopped(folder)
                return INTERRUPTED
            case Outcome.SUSPENDED:
                self._suspended(folder)
            case Outcome.DELETED:
                return self._deleted(folder)
        return 0

    async def _follow(self, folder: Folder) -> int:
        """Shows what another terminal's engine does, until the resource ends or that engine does."""
        story = KINDS[folder.kind].story
        while folder.alive:
            self.screen.show(str(folder), folder.status(), story)
            await asyncio.sleep(0.2)
        if folder.applied() is None:
            return self._deleted(folder)
        self.screen.show(str(folder), status := folder.status(), story)
        if story.is_over(status):
            return self._ended(folder)
        if is_suspended(status):
            self._suspended(folder)
            return 0
        self._stopped(folder)
        return INTERRUPTED

    def _ended(self, folder: Folder) -> int:
        story, status = KINDS[folder.kind].story, folder.status()
        self.screen.leave(str(folder))
        self.screen.end(story.ending(str(folder), status, Volumes(self.home)))
        return 0 if story.succeeded(status) else 1

    def _suspended(self, folder: Folder) -> None:
        self.screen.leave(str(folder))
        self.screen.say(line(str(folder), "suspended", "set spec.suspend to false to go on"))

    def _deleted(self, folder: Folder) -> int:
        self.screen.leave(str(folder))
        self.screen.say(line(str(folder), "deleted", "its models and checkpoints stay on their volumes"))
        return 0

    def _stopped(self, folder: Folder) -> None:
        self.screen.leave(str(folder))
        left = KINDS[folder.kind].story.left(folder.status())
        self.screen.say(line(str(folder), "stopped", f"{left}; to go on: {self.again}"))

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)

    def _interrupt(self) -> None:
        """The first time everything stops in order, the second time at once."""
        self.interrupts += 1
        busy = [engine.kind.story.parting for engine in self.engines.values() if engine.kubelet.running]
        if busy and self.interrupts == 1:
            self.screen.say(f"Stopping: {', '.join(dict.fromkeys(busy))}. Ctrl-C again ends them at once.")
        for engine in self.engines.values():
            engine.stop()
        for task in self.following:
            task.cancel()

    async def _endpoint(self) -> tuple[web.AppRunner, str]:
        """Serves the progress endpoint on a free port of 127.0.0.1."""
        listening = socket.create_server(("127.0.0.1", 0))
        runner = web.AppRunner(Endpoint(self, THROTTLE).application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        return runner, f"http://127.0.0.1:{listening.getsockname()[1]}"
