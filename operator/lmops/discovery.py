"""Which kinds are installed: everybody may ask that, while to read CRDs is a right over the whole cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable

from lmops.cluster import RESOURCES, RefusedError, UnreachableError

LOOK = 30.0
"""Seconds between two looks."""


class ChangedError(Exception):
    """Other kinds are installed than before."""


async def changes(serves: Callable[[str], Awaitable[bool]], kinds: Iterable[str]) -> None:
    """Raises `ChangedError` when one of the kinds is installed or removed. Kubernetes' own are always there."""
    foreign = [kind for kind in kinds if "." in RESOURCES[kind].group_version[0]]
    known: set[str] | None = None
    while True:
        with contextlib.suppress(RefusedError, UnreachableError):
            served = {kind for kind in foreign if await serves(kind)}
            if known is not None and served != known:
                raise ChangedError(f"{', '.join(sorted(served ^ known))} was installed or removed")
            known = served
        await asyncio.sleep(LOOK)
