"""What `lmops operator run` says to who starts it, and to who reads its log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lives import LOST, Life, fails_once
from lmops.__main__ import app
from lmops.commands import JsonLines
from lmops.service import watched
from lmops.settings import Settings


def resource_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of the job itself, and not of its children."""
    said = [record.getMessage().removeprefix("TrainingJob default/reviews: ") for record in caplog.records]
    return [line for line in said if not line.startswith(("created", "deleted"))]


def test_a_kubeconfig_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nope")
    done = CliRunner().invoke(app, ["operator", "run", "--port", "0", "--progress-port", "0"])

    said = f"lmops: this is no pod, and KUBECONFIG={tmp_path}/nope names no cluster: "
    lines = [line for line in done.stderr.splitlines() if line.startswith("lmops: ")]
    assert (done.exit_code, [line[: len(said)] for line in lines]) == (1, [said])
    assert "Traceback" not in done.output


def test_a_json_line_names_its_resource(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "lmops"):
        Life(fails_once).run()

    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "lmops"]
    assert {(line["kind"], line["namespace"], line["name"]) for line in lines} == {
        ("TrainingJob", "default", "reviews")
    }
    assert {(line["level"], line["logger"]) for line in lines} == {("info", "lmops")}


def test_a_restart_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "lmops"):
        Life(fails_once).run()

    assert [line for line in resource_lines(caplog) if "RankKilled" in line] == [
        "RankKilled: restart 1 of 3 from step 100"
    ]


def test_a_failed_job_is_called_failed(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "lmops"):
        Life(lambda stage, attempt: {"failure": LOST}, retry={"restarts": 0}).run()

    assert resource_lines(caplog)[-1].startswith("Failed: RankKilled: Rank 1 was killed by SIGKILL.")


@pytest.mark.parametrize(("namespaces", "words"), [((), "watching all namespaces"), (("a", "b"), "watching a, b")])
def test_the_start_line_says_what_is_watched(namespaces: tuple[str, ...], words: str):
    assert watched(Settings(namespaces=namespaces)) == words
