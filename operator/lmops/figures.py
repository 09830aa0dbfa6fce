"""Asks servers for the figures of their traffic, which no watch tells. Who does not answer is left out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable

import aiohttp

from lmops.memory import Memory
from lmops.plan import Manifest
from lmops.serving.inferenceservice import ENGINE, PORT
from lmops.serving.replicas import is_ready
from lmops.serving.vllm import UNTOLD
from lmops.serving.vllmtraffic import Told, stats

FRESH = 25.0
"""Seconds for which an answer is known without asking: a status that is written for it must not ask for another."""
REMEMBERED = 10_000
"""Pods whose answers are known, at the most."""
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
LARGEST = 1024 * 1024
"""Bytes of an answer."""
LOOKS = 4 * FRESH
"""Seconds between two looks at what a replica of vLLM has counted, at the most: their difference is its traffic."""


class Figures:
    """What was answered of late."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self._known = Memory[str, Manifest](FRESH, REMEMBERED)
        self._counted = Memory[str, tuple[float, Told]](LOOKS, REMEMBERED)

    async def of(self, pods: Iterable[Manifest]) -> dict[str, Manifest]:
        """The figures of those pods that serve, are ready, and answer; by their names."""
        serving = [pod for pod in pods if pod["status"].get("podIP") and is_ready(pod)]
        unknown = [pod for pod in serving if self._known.get(_uid(pod)) is None]
        if unknown:
            async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
                answers = await asyncio.gather(*(self._asked(session, pod) for pod in unknown))
            for pod, answer in zip(unknown, answers, strict=True):
                self._known.put(_uid(pod), answer)
        found = {pod["metadata"]["name"]: self._known.get(_uid(pod)) for pod in serving}
        return {name: answer for name, answer in found.items() if answer}

    async def _asked(self, session: aiohttp.ClientSession, pod: Manifest) -> Manifest:
        """The answer of a pod, `{}` where it is none."""
        by_vllm = ENGINE in (pod["metadata"].get("labels") or {})
        host = pod["status"]["podIP"]
        url = f"http://{f'[{host}]' if ':' in host else host}:{self._port}/{'metrics' if by_vllm else 'stats'}"
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return {}
                text = await _text(answer)
            found = self._since(_uid(pod), Told.read(text)) if by_vllm else json.loads(text)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _since(self, uid: str, told: Told) -> Manifest:
        """The traffic since the last look, `{}` at the first one."""
        now, before = time.monotonic(), self._counted.get(uid)
        self._counted.put(uid, (now, told))
        return stats(before[1], told, now - before[0], UNTOLD) if before else {}


async def _text(answer: aiohttp.ClientResponse) -> str:
    """The whole answer, unless it is very long."""
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
    return found.decode()


def _uid(pod: Manifest) -> str:
    return str(pod["metadata"]["uid"])
