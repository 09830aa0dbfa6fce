"""What it is to wait for a resource, as `kubectl wait` does: until a condition holds, or can no longer."""

from __future__ import annotations

import re
import time

from lmops.local.home import Folder
from lmops.local.idle import STOPPED, seen
from lmops.plan import Manifest

LOOK = 0.2
GOOD_ENDS = {"LanguageModelService": "Ready"}
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """The length of a duration as kubectl takes it, as 90s, 5m or 1h30m; a bare number is seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text):
        raise ValueError(f"{text} is no duration; write seconds, or as in 90s, 5m, 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)([a-z]+)", text))


def good_end(kind: str) -> str:
    """The condition that people wait for: a service is Ready, a job Complete."""
    return GOOD_ENDS.get(kind, "Complete")


def awaited(folder: Folder, condition: str, patience: float) -> str:
    """Empty once the condition holds; else a sentence that says why nobody waits for it any longer."""
    end = time.monotonic() + patience
    while True:
        alive = folder.alive  # before its status, which is the last word of an engine that has just ended
        status = (seen(folder, alive) or {}).get("status", {})
        stopped = status.get("phase") == STOPPED
        if _truth(status, condition) == "True" and not stopped:
            return ""
        reason = (status.get("display") or {}).get("reason") or f"it is {status.get('phase', 'not begun')}"
        if stopped:
            return f"{folder} is not {condition}: {reason}"
        if _truth(status, "Stalled") == "True":
            return f"{folder} will not be {condition}: {reason}"
        if not alive:
            return f"{folder} is not {condition}, and no engine is at work on it: {reason}"
        if time.monotonic() >= end:
            return f"{folder} is not {condition} after {patience:g} s: {reason}"
        time.sleep(LOOK)


def complaint(status: Manifest) -> str:
    """Why a resource has failed or is not accepted as it is, and what to do; empty where it is neither."""
    if status.get("phase") != "Failed" and _truth(status, "Accepted") != "False":
        return ""
    if not (why := status.get("failure")):
        return str(status.get("display", {}).get("reason", ""))
    return f"{why['reason']}: {why['message']} {why['remedy']}".rstrip()


def _truth(status: Manifest, type_: str) -> str:
    """The status of a condition."""
    conditions = status.get("conditions") or ()
    return next((str(found["status"]) for found in conditions if found["type"] == type_), "Unknown")
