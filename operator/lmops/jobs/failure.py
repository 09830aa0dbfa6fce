"""What ended a run: the table of failure classes, and how a pod's remains are read into one of them."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from lmops.api import Ending, Failure
from lmops.api.base import GROUP
from lmops.api.status import FailureClass
from lmops.plan import Manifest


class Policy(NamedTuple):
    """What becomes of a job whose run ended so."""

    then: Literal["fails", "restarts", "resumes"]
    """The job fails; the run starts again while the budget lasts; or it goes on, and the budget stays as it is."""
    meaning: str
    remedy: str


CLASSES: dict[FailureClass, Policy] = {
    "Data": Policy("fails", "The data cannot be used as it is.", "Mend the file or the dataset section."),
    "Model": Policy("fails", "The model or tokenizer does not fit.", "Check model.from and model.tokenizer."),
    "Settings": Policy("fails", "Settings contradict each other.", "Change the field that the message names."),
    "Diverged": Policy("fails", "The loss is no longer a number.", "Lower training.learningRate."),
    "OutOfMemory": Policy(
        "fails",
        "A process needed more memory than it may have.",
        "Raise resources.perNode.memory, or lower training.microBatchSize or dataset.maxLength.",
    ),
    "Disk": Policy("fails", "A disk is full or cannot be written.", "Free or enlarge the volume."),
    "Volume": Policy("fails", "A volume or a path on it is missing.", "Create it, or correct the URI."),
    "Credentials": Policy("fails", "A private place did not let us in.", "Check credentials.secretName."),
    "Deadline": Policy("fails", "The job worked longer than it may.", "Raise retry.deadlineSeconds."),
    "Code": Policy("fails", "The program failed.", "The evidence shows where; please report it."),
    "Communication": Policy("restarts", "The processes lost each other.", "Look at the network between the nodes."),
    "Hung": Policy(
        "restarts", "All processes run, and no step is made.", "Raise retry.hungAfterSeconds if a step takes so long."
    ),
    "WorkerLost": Policy("restarts", "A process was killed from outside.", "Look at the node's own log."),
    "NodeLost": Policy("restarts", "A node went away.", "Nothing, unless it happens again."),
    "Preempted": Policy("resumes", "The run was stopped from outside, in order.", "Nothing."),
    "Verdict": Policy(
        "fails",
        "The compressed model does not keep the limits of `accept`.",
        "Compress less, or loosen accept; status.report has the figures.",
    ),
    "Image": Policy("fails", "An image cannot be had.", "Check the image's name and pod.imagePullSecrets."),
    "Unschedulable": Policy(
        "fails", "No node takes a pod.", "Ask for less in resources, or look at pod.nodeSelector and pod.tolerations."
    ),
}

UNREACHABLE = "HubUnreachable"
"""The reason of a failure to fetch a model or data set from a hub that does not answer."""
AWAY = (UNREACHABLE, "HubFailed")
"""With that of a hub that has trouble of its own: it may be back soon."""
LOG_SIGNS: tuple[tuple[str, FailureClass, str], ...] = (
    (r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate", "OutOfMemory", "OutOfMemory"),
    (r"No space left on device|Disk quota exceeded", "Disk", "DiskFull"),
    (r"Read-only file system|Permission denied", "Volume", "PermissionDenied"),
    (
        r"NCCL (error|timeout)|ncclInternalError|Watchdog caught collective operation timeout",
        "Communication",
        "NcclTimeout",
    ),
    (
        r"gloo.*(rror|imeout|imed out|losed)|Connection closed by peer|DistNetworkError|DistStoreError",
        "Communication",
        "GlooTimeout",
    ),
    (r"RendezvousTimeoutError|RendezvousClosedError", "Communication", "RendezvousFailed"),
    (r"Signal \d+ \(SIG(KILL|TERM)\)", "WorkerLost", "RankKilled"),
    (r"GatedRepoError|401 Client Error|403 Client Error", "Credentials", "AccessDenied"),
    (r"LocalEntryNotFoundError|We couldn't connect to '", "Communication", UNREACHABLE),
)
"""What a log tail betrays, where the runtime could not say it itself; the first sign that is found holds."""


def ending_of(pod: Manifest) -> Ending | None:
    """What the runtime itself said at its end."""
    try:
        return Ending.model_validate(json.loads(terminated_of(pod).get("message", "")))
    except (ValueError, ValidationError):
        return None


def failure_of(pod: Manifest) -> Failure | None:
    """Why this pod failed; `None` for a pod that did not."""
    ending = ending_of(pod)
    if ending and ending.failure:
        return ending.failure
    if ending and ending.stopped:
        at = f" A checkpoint of step {ending.stopped.step} was saved." if ending.stopped.step is not None else ""
        why = f"The run was stopped by {ending.stopped.signal}{f': {said}' if (said := _evictor(pod)) else '.'}"
        return failure("Preempted", _evicted(pod) or "Stopped", why + at)
    if pod["status"].get("phase") != "Failed":
        return None
    return remains(pod)


def remains(pod: Manifest) -> Failure:
    """What a pod that could not speak leaves behind: kubelet's words, an exit code, a log tail."""
    name, end = pod["metadata"]["name"], terminated_of(pod)
    tail = [line[:1000] for line in end.get("message", "").splitlines()[-10:]]
    status = pod["status"]
    if end.get("reason") == "OOMKilled":
        limit = _limit(pod)
        trains = pod["metadata"].get("labels", {}).get(f"{GROUP}/stage") == "train"
        remedy = "" if trains else "Raise resources.perNode.memory."
        return failure("OutOfMemory", "OOMKilled", f"{name} needed more than its {limit} of memory.", tail, remedy)
    if status.get("reason") == "NodeLost":
        return failure("NodeLost", "NodeLost", f"The node of {name} went away.", tail)
    if evicted := _evicted(pod):
        return failure("Preempted", evicted, _evictor(pod) or f"{name} was evicted.", tail)
    for sign, class_, reason in LOG_SIGNS:
        if line := next((line for line in reversed(tail) if re.search(sign, line)), None):
            return failure(class_, reason, f"{name}: {line.strip()[:500]}", tail)
    code = end.get("exitCode")
    if code in (137, 143):
        signal = "SIGKILL" if code == 137 else "SIGTERM"
        return failure("WorkerLost", "PodKilled", f"{name} was killed by {signal}, and not for its memory.", tail)
    last = next((line.strip()[:500] for line in reversed(tail) if line.strip()), "")
    said = f": {last}" if last else " and said no reason."
    return failure("Code", "ExitCode", f"{name} ended with exit code {code}{said}", tail)


def failure(
    class_: FailureClass, reason: str, message: str, evidence: list[str] | None = None, remedy: str = ""
) -> Failure:
    """A failure of a class, with the class's own remedy unless there is a better one."""
    return Failure.model_validate(
        {
            "class": class_,
            "reason": reason,
            "message": message,
            "evidence": evidence or [],
            "remedy": remedy or CLASSES[class_].remedy,
        }
    )


def adding(why: Failure, words: str, remedy: str = "") -> Failure:
    """The same failure with more to say."""
    return failure(why.class_, why.reason, why.message + words, why.evidence, remedy or why.remedy)


def terminated_of(pod: Manifest) -> dict[str, Any]:
    """How its container ended, `{}` while it runs."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    found: dict[str, Any] = statuses[0].get("state", {}).get("terminated") or {}
    return found


def was_told_to_go(pod: Manifest) -> bool:
    """Whether somebody has asked for its end: what it says then is no verdict on what it ran."""
    return "deletionTimestamp" in pod["metadata"] or _evicted(pod) is not None


def _evicted(pod: Manifest) -> str | None:
    """The word of whoever took the pod away: Evicted, Preempting, Terminated, ..."""
    disrupted = [
        c for c in pod["status"].get("conditions", []) if c["type"] == "DisruptionTarget" and c["status"] == "True"
    ]
    if disrupted or pod["status"].get("reason") in ("Evicted", "Preempting", "Terminated", "Shutdown"):
        return str(pod["status"].get("reason") or disrupted[0].get("reason", "Disrupted"))
    return None


def _evictor(pod: Manifest) -> str:
    """The sentence of whoever took the pod away: a kubelet's, a scheduler's or the eviction API's."""
    told = (c.get("message") for c in pod["status"].get("conditions", []) if c["type"] == "DisruptionTarget")
    words = (pod["status"].get("message") or next(filter(None, told), "")) if _evicted(pod) else ""
    return f"{words.rstrip('. ')}." if words else ""


def _limit(pod: Manifest) -> str:
    limits = pod.get("spec", {}).get("containers", [{}])[0].get("resources", {}).get("limits", {})
    return str(limits.get("memory", "share"))


HEAD = (
    "# Why a job failed",
    "",
    "`kubectl get tj NAME -o jsonpath='{.status.failure}'` shows the class, a reason in one word, a message, the log",
    "lines that show it, and a remedy for that case. The spec of a job cannot change: what a remedy says goes into",
    "a job of a new name, or into the same one once it was deleted. These are the classes. Written by `make crds`.",
    "",
    "| class | meaning | what becomes of the job | what to do |",
    "|---|---|---|---|",
)


def table() -> str:
    """The classes as a page for people, who find the class of their failure in `status.failure`."""
    then = {"fails": "it fails", "restarts": "it restarts, within `retry.restarts`", "resumes": "it goes on"}
    rows = [f"| `{name}` | {row.meaning} | {then[row.then]} | {row.remedy} |" for name, row in CLASSES.items()]
    return "\n".join((*HEAD, *rows, ""))


if __name__ == "__main__":
    print(table(), end="")
