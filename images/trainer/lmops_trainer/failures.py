"""What goes wrong, in words: an exception becomes a `Failure` with class, reason, evidence and remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from lmops.api.status import Failure, FailureClass

LINE = 1024
TEXT = 4096
LINES = 20
HEALABLE: frozenset[str] = frozenset({"Communication", "WorkerLost", "Volume", "Code"})
"""Classes that another try in the same pod may get past; every other failure would only repeat."""


class Refusal(Exception):  # noqa: N818
    """An input that cannot be used: a sentence for its owner, not a traceback."""

    def __init__(
        self, class_: FailureClass, reason: str, message: str, remedy: str = "", evidence: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.class_: FailureClass = class_
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.evidence = list(evidence)


def failure(class_: FailureClass, reason: str, message: str, remedy: str = "", evidence: Sequence[str] = ()) -> Failure:
    """A failure that fits its bounds: long texts are cut, and of the evidence the last lines are kept."""
    lines = [line.rstrip()[:LINE] for line in evidence if line.strip()][-LINES:]
    return Failure(class_=class_, reason=reason[:128], message=message[:TEXT], evidence=lines, remedy=remedy[:TEXT])


def failure_of(exception: BaseException) -> Failure:
    """What the exception means to the owner of the job."""
    if isinstance(exception, Refusal):
        return failure(exception.class_, exception.reason, exception.message, exception.remedy, exception.evidence)
    for cause in _chain(exception):
        if isinstance(cause, Refusal):
            return failure(cause.class_, cause.reason, cause.message, cause.remedy, cause.evidence)
        if found := _system(cause) or _memory(cause) or _communication(cause) or _library(cause):
            return found
    return failure(
        "Code",
        type(exception).__name__,
        f"{type(exception).__name__}: {_first_line(exception)}",
        "A fault of the program, or of code that came with the model; the evidence is the end of its traceback.",
        _traceback(exception),
    )


def is_permanent(failed: Failure) -> bool:
    """Whether the same processes would meet the same failure again."""
    return failed.class_ not in HEALABLE


def disk_full(path: Path | str) -> Refusal:
    """There is no room where `path` lies."""
    free = _free(Path(path))
    return Refusal(
        "Disk",
        "DiskFull",
        f"The disk is full: {place(path)} could not be written ({free} bytes free).",
        "Make the volume larger or free some space; lower checkpoint.keep to keep fewer checkpoints. "
        "The last complete checkpoint is intact.",
    )


def place(path: Path | str) -> str:
    """The path as its owner knows it: on a volume the URI, else the path itself."""
    volumes = Path(os.environ.get("LMOPS_VOLUMES", "/volumes"))
    return f"pvc://{Path(path).relative_to(volumes)}" if Path(path).is_relative_to(volumes) else str(path)


def _chain(exception: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = exception
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _system(exception: BaseException) -> Failure | None:
    """Errors of the file system. Rust libraries (safetensors, tokenizers) tell the errno in their text alone."""
    path = getattr(exception, "filename", None)
    code = exception.errno if isinstance(exception, OSError) else _errno_in(str(exception))
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return failure_of(disk_full(path or _path_in(str(exception)) or "a file"))
    if code in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EROFS):
        return failure(
            "Volume", "VolumeError", f"The volume failed: {exception}.",
            "Look at the state of the volume and of the node that mounts it.",
        )  # fmt: skip
    if isinstance(exception, PermissionError):
        return failure(
            "Volume", "PermissionDenied",
            f"{place(path) if path else exception} may not be read or written by this user.",
            "Give the files to the user of the pods, or set the fsGroup that owns them.",
        )  # fmt: skip
    return None


def _memory(exception: BaseException) -> Failure | None:
    text = str(exception)
    device = type(exception).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text
    host = isinstance(exception, MemoryError) or "can't allocate memory" in text
    if not device and not host:
        return None
    return failure(
        "OutOfMemory",
        "AcceleratorOutOfMemory" if device else "OutOfMemory",
        f"The {'accelerator' if device else 'process'} ran out of memory: {_shortage(text) or _first_line(exception)}",
        "Lower training.microBatchSize (gradients then accumulate to the same batchSize) or dataset.maxLength, or "
        f"{'take an accelerator with more memory' if device else 'give the job more memory'}.",
        _sentences(text),
    )


_SIZE = r"([\d.]+ [KMG]iB)"


def _shortage(text: str) -> str | None:
    """What torch says of a full card in a paragraph, in a line."""
    found = re.search(rf"Tried to allocate {_SIZE}.*total capacity of {_SIZE} of which {_SIZE} is free", text)
    if not found:
        return None
    if allowed := re.search(rf"{_SIZE} allowed;", text):
        return f"{found[1]} more were asked for, and this process may have {allowed[1]}."
    return f"{found[1]} more were asked for, and of its {found[2]} {found[3]} were free."


def _sentences(text: str) -> list[str]:
    """A paragraph as lines, without the advice for programmers at its end."""
    lines = [line for part in text.splitlines() for line in part.replace(". ", ".\n").splitlines()]
    return [line.strip() for line in lines if not line.strip().startswith(("If reserved but", "See documentation"))]


_COMMUNICATION = re.compile(
    r"NCCL|gloo|ProcessGroup|connectFullMesh|Connection (reset|closed|refused)|Broken pipe|store timeout|"
    r"rendezvous|Socket Timeout|DistNetworkError|DistStoreError|DistBackendError|TCPStore",
    re.IGNORECASE,
)


def _communication(exception: BaseException) -> Failure | None:
    name, text = type(exception).__name__, str(exception)
    named = name.startswith(("Dist", "Rendezvous"))
    if not named and not (isinstance(exception, RuntimeError | ConnectionError) and _COMMUNICATION.search(text)):
        return None
    return failure(
        "Communication",
        "PeerLost" if re.search(r"closed|reset|refused|pipe", text, re.IGNORECASE) else "CommunicationFailed",
        f"The processes lost contact with each other: {_first_line(exception)}",
        "Another process or node has probably ended first: look at its failure; else at the network between the nodes.",
        text.splitlines(),
    )


def _library(exception: BaseException) -> Failure | None:
    """Faults that libraries report and that are their input's."""
    if type(exception).__name__ in ("GatedRepoError", "RepositoryNotFoundError"):
        return failure(
            "Credentials", "HubRefused", f"The hub refused the model or data set: {_first_line(exception)}",
            "Check the name; a private one needs a Secret with HF_TOKEN in credentials.secretName.",
        )  # fmt: skip
    return None


def _errno_in(text: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", text)
    if found:
        return int(found.group(1) or found.group(2))
    # torch's own writer tells no errno, only that its file is not as long as it should be.
    cut_short = text == "basic_ios::clear: iostream error" or ("unexpected pos" in text and "inline_container" in text)
    return errno.ENOSPC if cut_short or "No space left on device" in text else None


def _path_in(text: str) -> str | None:
    found = re.search(r"['\"](/[^'\"]+)['\"]", text)
    return found.group(1) if found else None


def _free(path: Path) -> int:
    for folder in (path, *path.parents):
        if folder.is_dir():
            return shutil.disk_usage(folder).free
    return 0


def _first_line(exception: BaseException) -> str:
    return next((line.strip() for line in str(exception).splitlines() if line.strip()), type(exception).__name__)


def _traceback(exception: BaseException) -> list[str]:
    lines = "".join(traceback.format_exception(exception)).splitlines()
    home = sys.prefix.rstrip("/") + "/"
    return [line.replace(home, "") for line in lines if line.strip() and set(line.strip()) != {"^"}][-LINES:]
