"""A service on a laptop: one address that stays, whatever model is behind it."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections import Counter
from typing import Any

from local.test_quantize import SMALL

SERVICE = """\
apiVersion: lmops.dev/v1alpha1
kind: LanguageModelService
metadata:
  name: films
spec:
  model:
    from: {uri: pvc://models/a}
"""
FOLLOWING = SERVICE.replace("{uri: pvc://models/a}", "{quantizeJob: {name: small}}")
GATED = SERVICE + "  rollout: {strategy: Gated, gates: {maxLatencyRatio: 100}}\n"
UNREADABLE = SERVICE + '  requestLog: {uri: pvc://models/log, redact: ["("]}\n'
WHY = "requestLog.redact[0] is no regular expression: missing ), unterminated subpattern at position 0."
WHAT_TO_DO = "Correct it, or leave it out."
KEYS = """\
apiVersion: v1
kind: Secret
metadata:
  name: keys
stringData: {alice: open-sesame}
"""


def asked(url: str) -> dict[str, Any]:
    """What the server was told."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def served(laptop: Any, eventually: Any, *words: str) -> tuple[Any, str]:
    """A service that answers, and where."""
    process = laptop.start("apply", *words)
    eventually(lambda: status(laptop).get("phase") == "Serving", seconds=60)
    return process, status(laptop)["url"]


def status(laptop: Any) -> dict[str, Any]:
    """The status of the service, as it lies in the home."""
    file = laptop.home / "resources/default/LanguageModelService/films/status.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def test_the_load_and_why_no_drift_is_told_are_seen(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    served(laptop, eventually, "-f", "films.yaml")
    why = "pvc://models/a has no baseline.json beside it. Serve another."
    figures = {"requests": 300, "requestsPerSecond": 5.0, "latencySeconds": {"p50": 0.01, "p95": 0.042}}
    folder = laptop.home / "volumes" / "models" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stats.json").write_text(json.dumps(figures | {"drift": {"unavailable": why}}))

    eventually(lambda: "5/s, p95 42 ms" in laptop.lmops("get", "lms")[1], seconds=30)
    assert any(
        line.split()[:2] == ["DriftUnavailable", "True"] and line.endswith(why)
        for line in laptop.lmops("describe", "films")[1].splitlines()
    )


def test_a_service_is_told_from_its_start_to_ctrl_c(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    process, url = served(laptop, eventually, "-f", "films.yaml")

    assert asked(url)["model"] == {"uri": "pvc://models/a", "trustRemoteCode": False}
    heading, row = laptop.lmops("get", "lms")[1].splitlines()
    assert heading.split() == ["NAME", "PHASE", "MODEL", "REPLICAS", "LOAD", "URL", "REASON", "AGE"]
    assert row.split()[:4] == ["films", "Serving", "pvc://models/a", "1/1"]
    assert url in row.split()
    assert f"  serving   {url}  pvc://models/a" in laptop.lmops("describe", "films")[1]
    assert laptop.lmops("logs", "films")[1] == "loads pvc://models/a\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "")
    assert out.splitlines() == [
        "languagemodelservice/films created",
        "languagemodelservice/films   starting  pvc://models/a",
        f"languagemodelservice/films   serving   pvc://models/a at {url}",
        "Stopping: requests under way are answered first. Ctrl-C again ends them at once.",
        f"languagemodelservice/films   stopped   nothing answers at {url} any more;"
        " to go on: lmops local apply -f films.yaml",
    ]
    assert (status(laptop)["phase"], status(laptop)["display"]["reason"]) == ("Starting", "waiting for its pods")


def test_a_name_outside_has_no_effect_and_that_is_told(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE + "  expose: {host: films.example.com, ingressClassName: nginx}\n")
    process, _ = served(laptop, eventually, "-f", "films.yaml")
    process.send_signal(signal.SIGINT)

    sentence = "expose has no effect on a laptop: films.example.com leads nowhere."
    assert f"languagemodelservice/films   expose    {sentence}" in process.communicate(timeout=30)[0].splitlines()


def test_another_model_takes_over_at_the_same_address_and_no_request_fails(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    _, url = served(laptop, eventually, "-f", "films.yaml")
    seen, over = Counter[str](), threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                seen[asked(url)["model"]["uri"]] += 1
            except OSError as error:
                seen[f"failed: {error}"] += 1

    client = threading.Thread(target=ask)
    client.start()
    laptop.write("films.yaml", SERVICE.replace("models/a", "models/b"))
    laptop.start("apply", "-f", "films.yaml")
    eventually(lambda: status(laptop).get("model") == {"uri": "pvc://models/b"}, seconds=60)
    eventually(lambda: "pvc://models/b" in seen, seconds=10)
    over.set()
    client.join()

    assert set(seen) == {"pvc://models/a", "pvc://models/b"}
    assert status(laptop)["url"] == url
    assert asked(url)["model"]["uri"] == "pvc://models/b"
    assert [model["uri"] for model in status(laptop)["history"]] == ["pvc://models/a", "pvc://models/b"]


def test_a_model_that_does_not_load_is_told_and_takes_nobodys_place(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    broken = laptop.home / "volumes/models/b/broken"
    broken.parent.mkdir()
    broken.touch()
    _, url = served(laptop, eventually, "-f", "films.yaml")
    laptop.write("films.yaml", SERVICE.replace("models/a", "models/b"))
    laptop.start("apply", "-f", "films.yaml")

    eventually(lambda: status(laptop)["phase"] == "Degraded", seconds=60)

    failed = status(laptop)
    assert failed["failure"] == {
        "class": "Model",
        "reason": "WeightsMissing",
        "message": "pvc://models/b has no weights.",
        "evidence": [],
        "remedy": "Publish the model again.",
    }
    assert (failed["rollout"]["state"], asked(url)["model"]["uri"]) == ("Failed", "pvc://models/a")
    broken.unlink()
    eventually(lambda: status(laptop)["phase"] == "Serving", seconds=60)
    assert (status(laptop).get("failure"), asked(url)["model"]["uri"]) == (None, "pvc://models/b")


def test_keys_are_read_from_a_secret(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE + "  apiKeys: {secretName: keys}\n")
    laptop.write("keys.yaml", KEYS)

    _, url = served(laptop, eventually, "-f", "keys.yaml", "-f", "films.yaml")

    assert asked(url)["keys"] == ["open-sesame"]


def test_a_service_that_is_left_running_keeps_its_address_and_is_deleted_in_order(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", SERVICE)
    process, url = served(laptop, eventually, "-f", "films.yaml")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    code, out, _ = laptop.lmops("apply", "-f", "films.yaml", "--detach")
    assert code == 0
    eventually(lambda: status(laptop)["phase"] == "Serving", seconds=60)
    assert (status(laptop)["url"], asked(url)["model"]["uri"]) == (url, "pvc://models/a")
    code, out, _ = laptop.lmops("delete", "lms/films")

    assert (code, status(laptop)) == (0, {})
    assert out.splitlines()[-1].startswith("languagemodelservice/films   deleted")


def test_a_whole_chain_ends_with_the_service_up(laptop: Any, eventually: Any) -> None:
    laptop.write("small.yaml", SMALL)
    laptop.write("films.yaml", FOLLOWING)

    _, url = served(laptop, eventually, "-f", "films.yaml", "-f", "small.yaml", "-f", "reviews.yaml")

    assert asked(url)["model"] == {
        "uri": "pvc://models/small/111111111111",
        "digest": "sha256:" + "1" * 64,
        "trustRemoteCode": False,
    }
    assert status(laptop)["display"]["model"] == "111111111111"


def test_a_model_that_answers_alike_passes_its_gate_and_one_that_does_not_is_refused(
    laptop: Any, eventually: Any
) -> None:
    laptop.write("films.yaml", GATED)
    for name, label in (("b", "negative"), ("c", "positive")):
        folder = laptop.home / "volumes/models" / name
        folder.mkdir()
        (folder / "label").write_text(label)
        (folder / "lmops.json").write_text(json.dumps({"sample": [{"text": "a triumph"}, {"text": "so dull"}]}))
    _, url = served(laptop, eventually, "-f", "films.yaml")

    laptop.write("films.yaml", GATED.replace("models/a", "models/b"))
    laptop.start("apply", "-f", "films.yaml")
    seen = set[str]()

    def is_over() -> bool:
        """Meanwhile nobody who asks the service is answered by the candidate."""
        seen.add(asked(url)["model"]["uri"])
        return bool(status(laptop).get("refused")) and len(children(laptop)) == 1

    eventually(is_over, seconds=60)
    assert seen == {"pvc://models/a"}
    refused = status(laptop)
    assert (refused["phase"], refused["model"], asked(url)["model"]["uri"]) == (
        "Serving",
        {"uri": "pvc://models/a"},
        "pvc://models/a",
    )
    assert refused["rollout"]["gate"]["figures"]["agreement"] == 0
    assert refused["display"]["reason"].startswith(
        "pvc://models/b does not take over from pvc://models/a: agreement is 0.000, and must be at least 0.8."
    )

    laptop.write("films.yaml", GATED.replace("models/a", "models/c"))
    laptop.start("apply", "-f", "films.yaml")
    eventually(lambda: status(laptop).get("model") == {"uri": "pvc://models/c"}, seconds=60)
    eventually(lambda: status(laptop)["phase"] == "Serving", seconds=60)
    gate = status(laptop)["rollout"]["gate"]
    assert (gate["state"], gate["figures"]["agreement"], gate["figures"]["rows"]) == ("Passed", 1, 2)
    assert (status(laptop)["url"], asked(url)["model"]["uri"]) == (url, "pvc://models/c")
    assert children(laptop) == ["InferenceService.films.json"]


def children(laptop: Any) -> list[str]:
    """What is there for the service."""
    folder = laptop.home / "resources/default/LanguageModelService/films/children"
    return sorted(file.name for file in folder.glob("*.json"))


def test_a_refusal_is_told_at_once_and_the_corrected_file_is_not_judged_by_it(laptop: Any, eventually: Any) -> None:
    laptop.write("films.yaml", UNREADABLE)
    refused = laptop.lmops("apply", "-f", "films.yaml", "--detach")
    laptop.write("films.yaml", SERVICE)
    corrected = laptop.lmops("apply", "-f", "films.yaml", "--detach")
    eventually(lambda: status(laptop)["phase"] == "Serving", seconds=60)
    laptop.lmops("delete", "lms/films")

    assert refused == (
        1,
        "languagemodelservice/films created\n"
        f"languagemodelservice/films Failed: PatternUnreadable: {WHY} {WHAT_TO_DO}\n",
        "",
    )
    goes_on = "it goes on without this terminal: lmops local get languagemodelservice/films -w"
    assert corrected == (
        0,
        f"languagemodelservice/films configured\nlanguagemodelservice/films Starting; {goes_on}\n",
        "",
    )


def test_a_new_engine_is_waited_for_though_the_last_one_has_left_the_same_document_failed(laptop: Any) -> None:
    laptop.write("films.yaml", UNREADABLE)
    first = laptop.start("apply", "-f", "films.yaml")
    told = [first.stdout.readline() for _ in range(2)]
    first.send_signal(signal.SIGINT)
    left, _ = first.communicate(timeout=30)
    file = laptop.home / "resources/default/LanguageModelService/films/status.json"
    file.write_text(json.dumps(status(laptop) | {"failure": None, "display": {"reason": "of before"}}))

    code, out, _ = laptop.lmops("apply", "-f", "films.yaml", "--detach")
    laptop.lmops("delete", "lms/films")

    assert told == [
        "languagemodelservice/films created\n",
        f"languagemodelservice/films   refused   {WHY} {WHAT_TO_DO}\n",
    ]
    assert WHY not in left
    assert (code, out.splitlines()) == (
        1,
        [
            "languagemodelservice/films unchanged",
            f"languagemodelservice/films Failed: PatternUnreadable: {WHY} {WHAT_TO_DO}",
        ],
    )
