"""What a container finds when it starts: its mounted folders, its environment and its command line."""

from __future__ import annotations

import os
import re
import shutil
import site
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from lmops.local.home import Home
from lmops.local.pods import container
from lmops.local.volumes import Volumes
from lmops.plan import Manifest

PROGRESS = "http://lmops-progress"
"""The progress endpoint in manifests: a pod may wait longer than one engine and its port live."""
TERMINATION_MESSAGE = 4096
FALLBACK_BYTES, FALLBACK_LINES = 2048, 80
FOREIGN = ("PET_", "MASTER_", "TORCHELASTIC_", "KUBEFLOW_", "LMOPS_")
"""Variables of the terminal that would tell a pod something that is not about it."""
FOREIGN_NAMES = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"})


class ConfigError(Exception):
    """The container cannot be made yet, in the kubelet's words."""


@dataclass(frozen=True)
class Sandbox:
    """A pod's folder on the laptop. Its mount paths lie under `root`, where a cluster has them under `/`."""

    folder: Path
    pod: Manifest
    endpoint: str = ""
    """Where the progress endpoint listens now."""

    @property
    def root(self) -> Path:
        """What stands for `/`."""
        return self.folder / "root"

    @property
    def log(self) -> Path:
        """All that the container said."""
        return self.folder / "log"

    @property
    def termination_log(self) -> Path:
        """Where the container leaves its last words."""
        return self.folder / "termination-log"

    @property
    def token(self) -> Path:
        """What a pod shows the endpoint. Nobody asks for it here, but Hugging Face's reporter is silent without."""
        return self.folder / "token"

    def furnish(self, volumes: Volumes, home: Home) -> None:
        """Makes the mounted folders: a claim is a link to its folder, a Secret is files, and scratch is empty."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.token.write_text("laptop")
        self.termination_log.unlink(missing_ok=True)
        known = {volume["name"]: volume for volume in self.pod["spec"].get("volumes", ())}
        for mount in container(self.pod).get("volumeMounts", ()):
            place, volume = self.inside(mount["mountPath"]), known[mount["name"]]
            if place == Path(mount["mountPath"]):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if claim := volume.get("persistentVolumeClaim", {}).get("claimName"):
                place.symlink_to(volumes.folder(claim) / mount.get("subPath", ""))
            else:
                place.mkdir(exist_ok=True)
                self._fill(place, volume.get("secret", {}), home)

    def _fill(self, place: Path, secret: dict[str, Any], home: Home) -> None:
        """Writes a Secret's files, readable to their owner alone."""
        named = {"name": secret.get("secretName", ""), "optional": not secret or secret.get("optional", False)}
        for key, value in (self._secret(home, named) or {}).items():
            (place / key).touch(mode=0o600)
            (place / key).write_text(value)

    def clear(self) -> None:
        """Removes what ends with the pod: its scratch. Links to volumes go, and not what they lead to."""
        shutil.rmtree(self.root, ignore_errors=True)

    def inside(self, text: str) -> Path:
        """Where a path of the container lies on the laptop; the shared memory is the laptop's own."""
        path = PurePosixPath(text)
        return Path(text) if path.is_relative_to("/dev") else self.root / path.relative_to("/")

    def environment(self, home: Home, own: dict[str, str]) -> dict[str, str]:
        """The terminal's variables, over them the engine's, the pod's Secrets and the pod's own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN) and k not in FOREIGN_NAMES}
        return {
            **inherited,
            **_python(inherited),
            **own,
            **self._secrets(home),
            **{
                entry["name"]: self._value(entry, home)
                for entry in container(self.pod).get("env", ())
                if _is_known(entry)
            },
            "LMOPS_TERMINATION_LOG": str(self.termination_log),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.token),
        }

    def command(self, environment: dict[str, str]) -> list[str]:
        """The command line, with `$(NAME)` as its value; the engine's own Python and its programs come first."""
        main = container(self.pod)
        words = [expanded(word, environment) for word in (*main.get("command", ()), *main.get("args", ()))]
        program = "python" if words[0] == "python3" else words[0]
        beside = Path(sys.executable).with_name(program)
        return [sys.executable if program == "python" else str(beside) if beside.exists() else program, *words[1:]]

    def last_sign(self) -> datetime | None:
        """When it was last heard of: what outlived its engine is not known to have worked any longer."""
        return datetime.fromtimestamp(self.log.stat().st_mtime, UTC) if self.log.exists() else None

    def last_words(self, code: int) -> str:
        """The termination message: what the container wrote, or the end of its log where it failed without a word."""
        words = _tail(self.termination_log, TERMINATION_MESSAGE)
        fall_back = container(self.pod).get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if words or code == 0 or not fall_back:
            return words
        return "\n".join(_tail(self.log, FALLBACK_BYTES).splitlines()[-FALLBACK_LINES:])

    def _value(self, entry: dict[str, Any], home: Home) -> str:
        if "value" in entry:
            return self._rooted(str(entry["value"]).replace(PROGRESS, self.endpoint, 1))
        source = entry.get("valueFrom", {})
        if reference := source.get("secretKeyRef"):
            data = self._secret(home, reference)
            if data is not None and reference["key"] not in data and not reference.get("optional"):
                raise ConfigError(
                    f"couldn't find key {reference['key']} in Secret {self._namespace}/{reference['name']}"
                )
            return (data or {}).get(reference["key"], "")
        field = source.get("fieldRef", {}).get("fieldPath", "").removeprefix("metadata.")
        return str(self.pod["metadata"].get(field, ""))

    def _rooted(self, value: str) -> str:
        """A value that is a mount path, lies under one or leads to one, as a path of the laptop."""
        if not value.startswith("/") or value == "/":
            return value
        path = PurePosixPath(value)
        mounts = [PurePosixPath(mount["mountPath"]) for mount in container(self.pod).get("volumeMounts", ())]
        ours = any(path.is_relative_to(mount) or mount.is_relative_to(path) for mount in mounts)
        return str(self.inside(value)) if ours else value

    def _secrets(self, home: Home) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container(self.pod).get("envFrom", ()):
            found |= self._secret(home, source.get("secretRef", {"name": "", "optional": True})) or {}
        return found

    def _secret(self, home: Home, reference: dict[str, Any]) -> dict[str, str] | None:
        data = home.secret(self._namespace, reference["name"])
        if data is None and not reference.get("optional"):
            raise ConfigError(f'secret "{reference["name"]}" not found; apply a Secret of that name together with it')
        return data

    @property
    def _namespace(self) -> str:
        return str(self.pod["metadata"].get("namespace", "default"))


def _is_known(entry: dict[str, Any]) -> bool:
    """Whether a variable has a value here: a laptop gives no container a limit that it did not ask for."""
    return "resourceFieldRef" not in entry.get("valueFrom", {})


def expanded(word: str, environment: dict[str, str]) -> str:
    """A word as the kubelet passes it on: `$(NAME)` is a value where there is one, and `$$` a dollar sign."""
    known = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
    return known.sub(lambda m: "$" if m[0] == "$$" else environment.get(m[1], m[0]), word)


def _python(inherited: dict[str, str]) -> dict[str, str]:
    """What Python needs to find the same packages from another folder and with another HOME."""
    paths = [str(Path(part).absolute()) for part in inherited.get("PYTHONPATH", "").split(os.pathsep) if part]
    found = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return found | ({"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {})


def _tail(file: Path, size: int) -> str:
    try:
        return file.read_bytes()[-size:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
