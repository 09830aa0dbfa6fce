"""The two that are compared, as processes: our operator, and the reference on client-go."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.controlplane import ControlPlane
from cluster.processes import free_ports
from lmops import events
from lmops.api import TrainingJob
from lmops.kinds import KINDS
from lmops.plan import Observed, created
from lmops.settings import Settings

REFERENCE = Path(__file__).with_name("reference")


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    command: Callable[[], list[str | Path]]

    @contextlib.contextmanager
    def running(self, plane: ControlPlane) -> Iterator[int]:
        """Its process id, while it runs."""
        plane.daemons.start(self.name, *self.command(), environment=plane.environment)
        yield plane.daemons.pid(self.name)
        plane.daemons.stop(self.name)


def ours() -> Side:
    """`lmops operator run`, as its image has it: without the laptop's commands and their libraries."""

    def command() -> list[str | Path]:
        port, posts = map(str, free_ports(2))
        start = "from lmops.commands import app; app()"
        return [sys.executable, "-c", start, "run", "--port", port, "--progress-port", posts]

    return Side("ours", command)


def reference(folder: Path, spec: dict[str, Any]) -> Side:
    """The controller on client-go, compiled, and what it is to send."""
    binary, documents = folder / "reference", folder / "documents.json"
    subprocess.run(["go", "build", "-C", REFERENCE, "-ldflags", "-s -w", "-o", binary, "."], check=True)
    documents.write_text(json.dumps(first_step(spec)))
    return Side("reference", lambda: [binary, documents])


def first_step(spec: dict[str, Any]) -> dict[str, Any]:
    """What the operator sends for a new job of this spec, with placeholders for the job."""
    metadata = {"name": "the-name", "namespace": "the-namespace", "uid": "the-uid", "resourceVersion": "1"}
    job, now = TrainingJob.model_validate({"metadata": metadata, "spec": spec}), datetime.now(UTC)
    plan = KINDS[job.kind].reconcile(job, Observed(), now, Settings())
    owner = {"apiVersion": job.api_version, "kind": job.kind, "metadata": metadata}
    event = events.manifest(owner, created(plan.create[0]), now)
    del event["regarding"]["resourceVersion"]
    event["metadata"]["name"] = "the-name.created"
    return {"child": plan.create[0], "status": {"status": plan.status.manifest()}, "event": event}
