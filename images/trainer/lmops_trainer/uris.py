"""Where a URI points: `pvc://claim/folder` to a path on a volume, `hf://owner/name@revision` to a hub repository."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lmops.api.status import FailureClass
from lmops_trainer.failures import Refusal


def is_hub(uri: str) -> bool:
    """The URI names a repository of the hub."""
    return uri.startswith("hf://")


def path(uri: str) -> Path:
    """The path of a `pvc://` URI, whether or not something is there."""
    if not uri.startswith("pvc://"):
        raise Refusal("Settings", "NotAVolume", f"{uri} does not lie on a volume.", "Use a pvc:// URI here.")
    inside = PurePosixPath(uri.removeprefix("pvc://"))
    if ".." in inside.parts:
        raise Refusal("Settings", "OutsideVolume", f"{uri} steps out of its volume.", "Write the path without '..'.")
    return Path(os.environ.get("LMOPS_VOLUMES", "/volumes")) / inside


def claim(uri: str) -> str:
    """The volume of a `pvc://` URI."""
    return uri.removeprefix("pvc://").partition("/")[0]


def is_mounted(uri: str) -> bool:
    """Whether the volume of a `pvc://` URI is there."""
    return (Path(os.environ.get("LMOPS_VOLUMES", "/volumes")) / claim(uri)).is_dir()


def mounted(uri: str) -> Path:
    """The path of a `pvc://` URI whose volume is there."""
    target, name = path(uri), claim(uri)
    if not is_mounted(uri):
        raise Refusal(
            "Volume",
            "VolumeMissing",
            f"The volume {name!r} of {uri} is not there.",
            f"Create a PersistentVolumeClaim of that name; on a laptop give its folder: --volume {name}=FOLDER.",
        )
    return target


def hub(uri: str) -> tuple[str, str | None]:
    """The repository of an `hf://` URI, and its revision where one is named."""
    repository, _, revision = uri.removeprefix("hf://").strip("/").partition("@")
    return repository, revision or None


def folder(uri: str, patterns: Sequence[str]) -> Path:
    """The folder of a model; of a hub model, those of its files that match the patterns are downloaded first."""
    if not is_hub(uri):
        return mounted(uri)
    from huggingface_hub import snapshot_download

    repository, revision = hub(uri)
    with reaching(uri, "Model"):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def reaching(uri: str, class_: FailureClass) -> Iterator[None]:
    """Turns what goes wrong on the way to the hub into a sentence."""
    from httpx2 import TransportError  # what huggingface_hub lets through
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    refusals = HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    try:
        yield
    except (*refusals, TransportError, ConnectionError, TimeoutError) as error:
        raise _refused(uri, class_, _status(error), error) from error


def _status(error: BaseException) -> int | None:
    """What the hub has answered, if it has: its client tells that it found no files, and behind that why."""
    from huggingface_hub.errors import HfHubHTTPError

    link: BaseException | None = error
    while link and not isinstance(link, HfHubHTTPError):
        link = link.__cause__
    if not isinstance(link, HfHubHTTPError) or link.response is None:
        return None
    return int(link.response.status_code)


def _refused(uri: str, class_: FailureClass, status: int | None, error: Exception) -> Refusal:
    lines = [line for line in str(error).splitlines() if line.strip()][:3]
    if status in (401, 403, 404):
        return Refusal(
            "Credentials" if status != 404 else class_,
            "HubRefused",
            f"The hub does not give out {uri} (HTTP {status}).",
            "Check the name and revision; a private one needs HF_TOKEN in the Secret credentials.secretName.",
            lines[:1],
        )
    if status is not None:
        return Refusal(
            class_,
            "HubFailed",
            f"The hub answers for {uri} with an error (HTTP {status}).",
            "Try again later, or copy the files to a volume.",
            lines,
        )
    return Refusal(
        class_,
        "HubUnreachable",
        f"{uri} could not be fetched from the hub.",
        "Check that pods may reach the hub and that HF_HUB_OFFLINE is not set, or copy the files to a volume.",
        lines,
    )
