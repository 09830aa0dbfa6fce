"""What is said of a resource that no engine works on: not what its last engine said."""

from __future__ import annotations

import signal
from typing import Any

import psutil
import pytest

from local.test_serving import SERVICE, asked, status

IDLE = "no engine is at work: lmops local apply -f FILE goes on"


def row(laptop: Any, target: str) -> str:
    """The line of the only resource in the table of `get`, its gaps as one space, without its age."""
    line: str = laptop.lmops("get", target)[1].splitlines()[1]
    return " ".join(line.split()[:-1])


def test_a_service_whose_engine_was_killed_is_neither_serving_nor_ready(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    laptop.lmops("apply", "-f", "films.yaml", "--detach")
    eventually(lambda: status(laptop).get("phase") == "Serving", seconds=60)
    url = status(laptop)["url"]
    assert laptop.lmops("wait", "lms/films") == (0, f"languagemodelservice/films is Ready at {url}\n", "")
    engine = supervisor(laptop)
    family = engine.children(recursive=True)

    engine.kill()
    psutil.wait_procs([engine], timeout=10)
    try:
        with pytest.raises(OSError, match="refused"):
            asked(url)
        assert row(laptop, "lms") == f"films Stopped pvc://models/a 0/1 {url} {IDLE}"
        assert laptop.lmops("wait", "lms/films") == (1, "", f"languagemodelservice/films is not Ready: {IDLE}\n")
        assert laptop.resource("lms/films")["status"]["phase"] == "Serving"
        story = laptop.lmops("describe", "films")[1].splitlines()
        assert story[0] == "languagemodelservice/films   Stopped"
        assert f"  stopped   nothing answers at {url} any more" in story
    finally:
        for process in family:
            process.kill()


def test_a_job_that_was_stopped_is_not_shown_as_one_that_starts_again(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", "-n", "team", "--set", "training.steps=15")
    eventually(lambda: laptop.step() > 1)
    apply.send_signal(signal.SIGINT)
    apply.communicate(timeout=20)

    _, stopped, _ = laptop.lmops("get", "tj", "-n", "team")
    laptop.lmops("apply", "-f", "reviews.yaml", "-n", "team", "--set", "training.steps=15")
    _, ended, _ = laptop.lmops("get", "tj", "-n", "team")

    assert stopped.splitlines()[1].split()[:2] == ["reviews", "Stopped"]
    assert "no engine is at work: lmops local apply -n team -f FILE goes on" in stopped
    assert ended.splitlines()[1].split()[:2] == ["reviews", "Succeeded"]


def supervisor(laptop: Any) -> psutil.Process:
    """The process that `apply --detach` has left behind for the service of this laptop."""
    words = ["supervise", "default/LanguageModelService/films"]
    mine = (p for p in psutil.process_iter(["cmdline", "pid"]) if (p.info["cmdline"] or [])[-2:] == words)
    return next(p for p in mine if p.environ().get("LMOPS_HOME") == str(laptop.home))
