"""The endpoint over HTTP: it takes a post for a run, and writes what the post changes, but not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from aiohttp import web
from pydantic import ValidationError

from lmops import kinds
from lmops.api import JobStatus
from lmops.jobs.work import AnyWork
from lmops.memory import Memory
from lmops.plan import Key
from lmops.progress.advance import THROTTLE, Post, Value, advance, is_current, last_written

KINDS = {kinds.KINDS[name].form.plural: name for name in kinds.JOBS}
"""Those whose runs report, by the word of their path."""
PATH = f"/namespaces/{{namespace}}/{{jobs:{'|'.join(KINDS)}}}/{{job}}/runs/{{run}}"
BODY_LIMIT = 64 * 1024
BODY_WITHIN = 10.0
"""Seconds that a body may take to arrive."""
TRIES = 5
EVALUATED = timedelta(seconds=2)
"""How soon an evaluation is written: the next post may go to another replica. What is written tells whole seconds."""
REMEMBERED, RUNS = 600.0, 10_000
"""Seconds for which a run is known without asking, and how many are at the most."""


class ConflictError(Exception):
    """The job has changed since it was read."""


class Store(Protocol):
    """Where jobs are read, and their status written."""

    async def read(self, job: Key) -> tuple[AnyWork, str]:
        """A job and its version; `LookupError` where there is none."""

    async def write(self, job: Key, status: dict[str, Any], version: str) -> None:
        """Merges a patch into the status; `ConflictError` when the job is no longer of that version."""


Guard = Callable[[web.Request], Awaitable[str | None]]
"""The UID of the job that a request may speak for, `None` for any; it raises 401 or 403 where it may for none."""


async def anyone(request: web.Request) -> None:
    """The guard of a laptop, where the endpoint listens on 127.0.0.1 alone."""


class _Run(NamedTuple):
    """The run that a request names, and the UID of its job where the guard knows it."""

    job: Key
    name: str
    owner: str | None

    def __str__(self) -> str:
        return f"{self.job.namespace}/{self.job.name}/{self.name}"


class _Heard(NamedTuple):
    """What is known of a run without asking."""

    written: datetime | None
    """When its job's progress was written last."""
    evaluation: list[Value]
    """What could not be written then: it goes with the next post."""


class Endpoint:
    """Takes posts."""

    def __init__(self, store: Store, throttle: timedelta = THROTTLE, guard: Guard = anyone) -> None:
        self.store, self.throttle, self.guard = store, throttle, guard
        self._heard = Memory[_Run, _Heard](REMEMBERED, RUNS)

    def application(self) -> web.Application:
        """Serves POST `/namespaces/{namespace}/{jobs}/{job}/runs/{run}`; jobs is the plural of a kind of ours."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_post(PATH, self.post)
        return app

    async def post(self, request: web.Request) -> web.Response:
        """Answers a request: whether it was written."""
        owner = await self.guard(request)
        run = _Run(job_of(request), request.match_info["run"], owner)
        post = await _posted(request)
        try:
            return web.json_response({"written": await self._take(run, post, datetime.now(UTC))})
        except LookupError:
            raise web.HTTPNotFound(text=f"{run}: no such run\n") from None
        except ConflictError:
            raise web.HTTPConflict(text=f"{run}: its job changes all the time; post again\n") from None

    async def _take(self, run: _Run, post: Post, now: datetime) -> bool:
        """Writes a post, or keeps its evaluation for the next one that is written."""
        written, evaluation = self._heard.get(run) or _Heard(None, [])
        post = post.after(evaluation)
        throttle = min(self.throttle, EVALUATED) if post.evaluation() else self.throttle
        if written and now - written < throttle:  # another replica may have written since, but none may now
            self._heard.put(run, _Heard(written, post.evaluation()))
            return False
        for _ in range(TRIES):
            work, version = await self.store.read(run.job)
            if run.owner not in (None, work.job.metadata.uid):
                raise web.HTTPForbidden(text=f"this pod belongs to an earlier {run.job.kind} {run.job.name}\n")
            patch = advance(work, run.name, post, now, throttle)
            if patch is None:
                self._put_off(run, post, work.job.status)
                return False
            try:
                await self.store.write(run.job, patch, version)
            except ConflictError:
                continue
            self._heard.put(run, _Heard(now, []))
            return True
        raise ConflictError

    def _put_off(self, run: _Run, post: Post, status: JobStatus) -> None:
        """Remembers what was not written; of a run that is over nothing is."""
        if is_current(status, run.name):
            self._heard.put(run, _Heard(last_written(status, run.name), post.evaluation()))
        else:
            self._heard.drop(run)


def job_of(request: web.Request) -> Key:
    """The job that a request names."""
    place = request.match_info
    return Key(KINDS[place["jobs"]], place["namespace"], place["job"])


async def _posted(request: web.Request) -> Post:
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return Post.model_validate(await request.json())
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not come\n") from None
    except (ValueError, RecursionError, ValidationError):
        raise web.HTTPBadRequest(text="the body is no trainer status\n") from None
