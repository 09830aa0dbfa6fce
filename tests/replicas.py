"""A replica's progress endpoint as it is on a cluster, and what a pod finds of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector

from lmops.progress.secret import SECRET, Certificates
from lmops.progress.server import Server
from lmops.progress.tokens import Holder
from lmops.settings import Settings
from posts import HOLDER, Objects, chain

SETTINGS = Settings(namespace="lmops", progress_port=0)
HOST = "lmops-progress.lmops.svc"
PATH = "/namespaces/default/trainingjobs/a/runs/a-train-a1"
KEY = ("Secret", "lmops", SECRET)


class Pod:
    """What a pod finds: the URL, and the two files."""

    def __init__(self, folder: Path, port: int, bundle: str, token: str = "good") -> None:
        self.url, self.ca, self.token = f"https://{HOST}:{port}{PATH}", folder / "ca.crt", folder / "token"
        self.ca.write_text(bundle)
        self.token.write_text(f"{token}\n")

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        files = {"CA_CERT": str(self.ca), "TOKEN": str(self.token)}
        return {f"KUBEFLOW_TRAINER_SERVER_{name}": value for name, value in {"URL": self.url, **files}.items()}

    @property
    def context(self) -> ssl.SSLContext:
        """Whom it trusts."""
        return ssl.create_default_context(cafile=str(self.ca))

    async def post(self, *bodies: Any) -> list[tuple[int, str]]:
        """The answers to posts."""
        told = []
        headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
        async with ClientSession(connector=TCPConnector(ssl=self.context)) as session:
            for sent in bodies:
                async with session.post(self.url, json=sent, headers=headers) as answer:
                    told.append((answer.status, await answer.text()))
        return told


def cluster() -> Objects:
    """A cluster with a run, its pod and that pod's token."""
    return Objects(*chain(), good=HOLDER, other=Holder("default", "b-train-a0-master-0", "p-2"))


@asynccontextmanager
async def serving(objects: Objects, leads: bool = True) -> AsyncIterator[tuple[Server, list[str]]]:
    """A replica, and the authorities that it has published."""
    published: list[str] = []
    replica = Server(SETTINGS, objects, Certificates(objects, SETTINGS, lambda: leads))
    replica.endpoint.throttle = timedelta()
    async with replica.serving(published.append):
        await asyncio.wait_for(replica.ready.wait(), 10)
        yield replica, published


def told(objects: Objects) -> dict[str, Any]:
    """The status that the cluster keeps."""
    return dict(objects.objects["TrainingJob", "default", "a"]["status"])


def on_a_replica(act: Callable[[Server, Pod], Any], objects: Objects, folder: Path, token: str = "good") -> Any:
    """What comes of it on a running replica."""

    async def play() -> Any:
        async with serving(objects) as (replica, published):
            return await act(replica, Pod(folder, replica.port, published[-1], token))

    return asyncio.run(play())
