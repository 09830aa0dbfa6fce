"""Where the laptop keeps resources: a folder each under `$LMOPS_HOME`, shared by several terminals through locks.

A file has one writer: `applied.json` what a user asks for (any terminal, under a lock), all else the engine that
holds `lock`. What `get` prints is the one joined with `status.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from lmops.plan import Event, Manifest, Ref

KEPT_EVENTS = 100
LOOKS = 5
"""How often a lock is tried before it counts as taken."""


def rfc3339(moment: datetime) -> str:
    """A time as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def in_namespace(namespace: str) -> str:
    """The option that leads a command to a namespace; the default one needs none."""
    return "" if namespace == "default" else f" -n {namespace}"


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Replaces a file in one step, so that a reader sees the old or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
    os.replace(fresh, path)


def read_json(path: Path) -> Any:
    """What a file holds, `None` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class Lock:
    """An exclusive lock on a file, which the kernel frees when its holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[str] | None = None

    def take(self, wait: bool = False, looks: int = LOOKS) -> bool:
        """Whether the lock is ours now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (held until given back)
        for _ in range(1 if wait else looks):
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02 if looks > 1 else 0)  # one who only looks whether it is taken has it for a moment
            else:
                self.file = file
                return True
        file.close()
        return False

    def is_taken(self) -> bool:
        """Whether another process holds it."""
        try:
            with self.path.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def give_back(self) -> None:
        """Lets the next one have it."""
        if self.file:
            self.file.close()
            self.file = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the lock and holds it."""
        self.take(wait=True)
        try:
            yield
        finally:
            self.give_back()


class LeavingError(Exception):
    """What is being deleted cannot be applied: a sentence for the user."""


class Folder:
    """All that is kept of one resource."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace, self.kind, self.name = path.parts[-3:]
        self.engine = Lock(path / "lock")
        self.children, self.pods, self.engine_log = path / "children", path / "pods", path / "engine.log"

    def __str__(self) -> str:
        """Its name as a command takes it, so that one namespace is not taken for another."""
        return f"{self.kind.lower()}/{self.name}{in_namespace(self.namespace)}"

    @property
    def alive(self) -> bool:
        """Whether an engine of another process works on it."""
        return self.engine.file is None and self.engine.is_taken()

    def applied(self) -> Manifest | None:
        """What the user asked for, with the metadata that an API server adds."""
        found = read_json(self.path / "applied.json")
        return None if found is None else found["manifest"]

    def on_cpu(self) -> bool:
        """Whether the last `apply` said `--cpu`."""
        return bool((read_json(self.path / "applied.json") or {}).get("cpu"))

    def stamp(self) -> int:
        """Changes whenever `applied.json` does."""
        try:
            return (self.path / "applied.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def is_told(self) -> bool:
        """Whether the status is an engine's answer to what was asked for last."""
        return bool(read_json(self.path / "told.json") == self.stamp())

    def tell(self, stamp: int) -> None:
        """Keeps that the status answers what `applied.json` asked for at this stamp."""
        write_json(self.path / "told.json", stamp)

    def status(self) -> Manifest:
        """The last status written, `{}` before the first."""
        found: Manifest = read_json(self.path / "status.json") or {}
        return found

    def resource(self) -> Manifest | None:
        """The resource as a cluster would show it."""
        applied = self.applied()
        return applied and {**applied, "status": self.status()}

    def apply(self, manifest: Manifest, now: datetime, cpu: bool = False) -> str:
        """Takes a manifest in, as an API server would, and says what became of it: created, configured, unchanged."""
        with Lock(self.path / "applied.lock").held():
            old = self.applied()
            metadata, word = {**manifest["metadata"], "namespace": self.namespace}, "unchanged"
            if old is None:
                word, born = "created", _born(now)
            elif "deletionTimestamp" in old["metadata"]:
                until = f"`lmops local delete {self}` waits for that"
                raise LeavingError(f"{self} is being deleted; apply it again when it is gone ({until})")
            else:
                born = {key: old["metadata"][key] for key in ("uid", "generation", "creationTimestamp")}
                if old["spec"] != manifest["spec"]:
                    word, born["generation"] = "configured", born["generation"] + 1
            whole = {**manifest, "metadata": {**metadata, **born}}
            write_json(self.path / "applied.json", {"manifest": whole, "cpu": cpu})
            return word

    def ask_deletion(self, now: datetime) -> None:
        """Marks the resource as one to be deleted."""
        with Lock(self.path / "applied.lock").held():
            found = read_json(self.path / "applied.json")
            if found and "deletionTimestamp" not in found["manifest"]["metadata"]:
                found["manifest"]["metadata"]["deletionTimestamp"] = rfc3339(now)
                write_json(self.path / "applied.json", found)

    def write_status(self, status: Manifest) -> None:
        """Keeps the new status."""
        write_json(self.path / "status.json", status)

    def events(self) -> list[Manifest]:
        """What happened, oldest first."""
        found: list[Manifest] = read_json(self.path / "events.json") or []
        return found

    def add_events(self, events: tuple[Event, ...], now: datetime) -> None:
        """Keeps the latest events."""
        fresh = [{"time": rfc3339(now), **event._asdict()} for event in events]
        if fresh:
            write_json(self.path / "events.json", [*self.events(), *fresh][-KEPT_EVENTS:])

    def child_file(self, ref: Ref) -> Path:
        """The file of a child."""
        return self.children / f"{ref.kind}.{ref.name}.json"

    def pod(self, name: str) -> Path:
        """The folder of a pod: its manifest, log, termination log and mounted volumes."""
        return self.pods / name

    def past_pods(self) -> list[tuple[Manifest, Path]]:
        """Every pod that ever ran, gone or not, in the order of their creation, with its folder."""
        found = [(read_json(file), file.parent) for file in self.pods.glob("*/pod.json")]
        return sorted(found, key=lambda pair: (pair[0]["metadata"]["creationTimestamp"], pair[0]["metadata"]["name"]))

    def remove(self) -> None:
        """Forgets the resource: first what makes it one, for those who look meanwhile. One applied anew stays."""
        with Lock(self.path / "applied.lock").held():
            if (applied := self.applied()) and "deletionTimestamp" not in applied["metadata"]:
                return
            (self.path / "applied.json").unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def _born(now: datetime) -> dict[str, Any]:
    return {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": rfc3339(now)}


class Home:
    """`$LMOPS_HOME`: all resources, Secrets and volumes of this laptop."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def found(cls) -> Home:
        """The home that the environment names, by default `~/.lmops`."""
        return cls(Path(os.environ.get("LMOPS_HOME") or Path.home() / ".lmops").expanduser().absolute())

    def folder(self, namespace: str, kind: str, name: str) -> Folder:
        """The folder of a resource, whether it is there or not."""
        return Folder(self.root / "resources" / namespace / kind / name)

    def folders(self, namespace: str | None = None, kind: str | None = None) -> list[Folder]:
        """The resources that are there."""
        found = self.root.glob(f"resources/{namespace or '*'}/{kind or '*'}/*/applied.json")
        return [Folder(path.parent) for path in sorted(found)]

    def resources(self, namespace: str, ref: Ref) -> list[Manifest]:
        """The resource of this name as a cluster would show it; without a name all of the kind."""
        return [resource for folder in self._named(namespace, ref) if (resource := folder.resource())]

    def changes(self, namespace: str, refs: Iterable[Ref]) -> tuple[int, ...]:
        """When the status of each of these was written last."""
        files = (folder.path / "status.json" for ref in refs for folder in self._named(namespace, ref))
        return tuple(file.stat().st_mtime_ns for file in files if file.exists())

    def _named(self, namespace: str, ref: Ref) -> list[Folder]:
        return [folder for folder in self.folders(namespace, ref.kind) if ref.name in ("", folder.name)]

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """What a Secret holds."""
        found: dict[str, str] | None = read_json(self.root / "secrets" / namespace / f"{name}.json")
        return found

    def keep_secret(self, namespace: str, name: str, data: dict[str, str]) -> None:
        """Keeps a Secret, readable to its owner alone."""
        write_json(self.root / "secrets" / namespace / f"{name}.json", data, mode=0o600)
