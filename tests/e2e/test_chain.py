"""The life of a model as its users have it: folders of YAML that train, compress, gate and serve it in real pods."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from cluster.client import Cluster, Manifest
from cluster.volumes import bound
from lmops_trainer.publish import fingerprint

CHAIN = Path(__file__).parents[2] / "examples" / "chain"
KINDS = {"trainingjob": "opinions-1", "quantizejob": "opinions-1", "languagemodelservice": "opinions"}
"""What the folder holds."""
SENTENCES = {
    "The picture is sharp, the sound is great, and it was easy to set up.": "positive",
    "I love this camera, it is the best that I have ever had.": "positive",
    "It broke after a week, and nobody at the shop would help.": "negative",
    "A terrible player: it skips and freezes, do not buy it.": "negative",
}
PATIENCE = 900
"""Seconds that a pair of jobs may take on a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("operator"), pytest.mark.timeout(3000)]


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    body: Any


def asked(connection: http.client.HTTPConnection, path: str, question: Any = None) -> Answer:
    """One request."""
    body = None if question is None else json.dumps(question)
    connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
    told = connection.getresponse()
    return Answer(told.status, json.loads(told.read()))


def opened(url: str) -> http.client.HTTPConnection:
    """A new connection to a server."""
    place = urlsplit(url)
    return http.client.HTTPConnection(str(place.hostname), place.port or 80, timeout=60)


def opinions(url: str) -> list[tuple[str, float]]:
    """What a service makes of the sentences."""
    told = asked(opened(url), "/v1/classify", {"model": "opinions", "input": list(SENTENCES)})
    assert told.status == 200, told
    return [(row["label"], row["confidence"]) for row in told.body["data"]]


class Clients:
    """Two who never stop asking, within a block: one by a connection that it keeps, one by a new one every time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered, self.failed = 0, list[str]()
        self.digests = list[str]()
        """Of the models that were there to be asked, in the order of their coming."""
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(keeps,)) for keeps in (True, False)]

    def __enter__(self) -> Clients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()

    def _ask(self, keeps: bool) -> None:
        kept = opened(self.url)
        while not self._over.wait(0.02):
            connection = kept if keeps else opened(self.url)
            for path, question in (
                ("/v1/classify", {"model": "opinions", "input": next(iter(SENTENCES))}),
                ("/passport", None),
            ):
                try:
                    told = asked(connection, path, question)
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(f"{path}: {error!r}")
                    connection.close()
                    continue
                self._heard(path, told)
            if not keeps:
                connection.close()

    def _heard(self, path: str, told: Answer) -> None:
        if told.status != 200:
            self.failed.append(f"{path}: {told}")
            return
        self.answered += 1
        if path == "/passport" and told.body["model"]["digest"] not in self.digests:
            self.digests.append(told.body["model"]["digest"])


def has_ended(job: Manifest) -> bool:
    """Whether a job has come to its end."""
    return job.get("status", {}).get("phase") in ("Succeeded", "Failed")


class Chain:
    """The service of a namespace, and the pairs of jobs that it follows."""

    def __init__(self, node: Cluster, namespace: str, volumes: Path) -> None:
        self.node, self.namespace, self.volumes = node, namespace, volumes
        self.phases: dict[str, list[str]] = {}

    def apply(self, folder: Path) -> None:
        """What a user types."""
        self.node.kubectl("apply", "-n", self.namespace, "-f", folder)

    def made(self, number: int) -> Manifest:
        """What a pair has published, once it is through."""
        pair = [
            self.node.until(kind, f"opinions-{number}", has_ended, self.namespace, PATIENCE)
            for kind in ("trainingjob", "quantizejob")
        ]
        assert [job["status"]["phase"] for job in pair] == ["Succeeded"] * 2, pair
        model: Manifest = pair[1]["status"]["model"]
        assert fingerprint(self.volumes / model["uri"].removeprefix("pvc://")).digest == model["digest"]
        return model

    def service(self) -> Manifest:
        """The status of the service."""
        found: Manifest = self.node.get("languagemodelservice", "opinions", self.namespace)["status"]
        return found

    def until(self, happened: Any) -> Manifest:
        """The status of the service, once something has happened to it."""
        found = self.node.until(
            "languagemodelservice", "opinions", lambda it: happened(it.get("status", {})), self.namespace, 300
        )
        status: Manifest = found["status"]
        return status

    @property
    def url(self) -> str:
        """The address of the Service that `status.url` names: this machine does not resolve the cluster's names."""
        host = str(urlsplit(self.service()["url"]).hostname)
        name, namespace, *_ = host.split(".")
        assert host == f"{name}.{self.namespace}.svc.cluster.local"
        return f"http://{self.node.get('service', name, namespace)['spec']['clusterIP']}"

    def events(self) -> set[str]:
        """The reasons of the service's events."""
        found = self.node.list("event", self.namespace)
        return {event["reason"] for event in found if event["involvedObject"]["name"] == "opinions"}


@pytest.fixture(scope="module")
def chain(serving_node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A namespace with nothing but volumes."""
    with serving_node.restricted() as namespace:
        yield Chain(serving_node, namespace, bound(serving_node, namespace, tmp_path_factory.mktemp("volumes")))


@pytest.fixture(scope="module")
def served(chain: Chain) -> Manifest:
    """The folder was applied: the model that is served then. All phases on the way are kept."""
    words = ("-n", chain.namespace, "--no-headers", "-o", "custom-columns=PHASE:.status.phase")
    with ExitStack() as watches:
        shown = {kind: watches.enter_context(chain.node.watching("get", kind, *words)) for kind in KINDS}
        chain.apply(CHAIN)
        model = chain.made(1)
        chain.until(lambda status: status.get("phase") == "Serving")
    chain.phases = {kind: in_turn(lines) for kind, lines in shown.items()}
    return model


class Followed(NamedTuple):
    """How another pair was followed."""

    model: Manifest
    clients: Clients
    status: Manifest


@pytest.fixture(scope="module")
def followed(chain: Chain, served: Manifest) -> Followed:
    """The pair with more data was applied, while clients ask all the time."""
    with Clients(chain.url) as clients:
        chain.apply(CHAIN / "more-data")
        model = chain.made(2)
        status = chain.until(lambda status: status["model"]["digest"] == model["digest"])
        chain.node.kubectl(
            "wait",
            "-n",
            chain.namespace,
            "pod",
            "-l",
            f"lmops.dev/job=opinions,lmops.dev/revision!={status['rollout']['revision']}",
            "--for=delete",
            "--timeout=120s",
        )
    return Followed(model, clients, status)


class Stopped(NamedTuple):
    """How a pair was stopped."""

    model: Manifest
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]
    status: Manifest


@pytest.fixture(scope="module")
def stopped(chain: Chain, followed: Followed) -> Stopped:
    """The pair whose classes are the wrong way round was applied."""
    before = opinions(chain.url)
    chain.apply(CHAIN / "worse")
    model = chain.made(3)
    chain.until(lambda status: status.get("refused"))
    chain.node.until(
        "inferenceservice",
        "opinions",
        lambda _: not chain.node.answers("get", "inferenceservice", "opinions-candidate", "-n", chain.namespace),
        chain.namespace,
    )
    return Stopped(model, before, opinions(chain.url), chain.until(lambda status: status["phase"] == "Serving"))


def in_turn(phases: list[str]) -> list[str]:
    """Phases without their repetitions."""
    return [phase for phase, _ in groupby(phases) if phase != "<none>"]


def test_one_folder_trains_compresses_and_serves_a_model(chain: Chain, served: Manifest) -> None:
    status = chain.service()
    trained = chain.node.get("trainingjob", "opinions-1", chain.namespace)["status"]
    inference = chain.node.get("inferenceservice", "opinions", chain.namespace)["status"]

    assert {run["name"] for run in trained["runs"]} == {
        f"opinions-1-{stage}-a0" for stage in ("prepare", "train", "evaluate")
    }
    assert trained["evaluation"]["beatsBaseline"] is True
    assert {each["type"]: each["status"] for each in inference["conditions"]}["Ready"] == "True"
    assert (status["phase"], status["model"]["digest"]) == ("Serving", served["digest"])
    assert [label for label, _ in opinions(chain.url)] == list(SENTENCES.values())
    assert asked(opened(chain.url), "/passport").body["model"]["digest"] == served["digest"]


def test_a_pair_with_more_data_takes_over_once_it_has_proved_itself_and_no_request_fails(
    chain: Chain, served: Manifest, followed: Followed
) -> None:
    gate = followed.status["rollout"]["gate"]

    assert (gate["state"], gate["figures"]["errorRatio"]) == ("Passed", 0), gate
    assert followed.clients.failed == []
    assert followed.clients.answered > 500
    assert followed.clients.digests == [served["digest"], followed.model["digest"]]
    assert chain.events() >= {"GateStarted", "GatePassed", "RolloutComplete"}


def test_a_worse_pair_is_stopped_by_its_gate_whatever_its_own_figures_say(
    chain: Chain, followed: Followed, stopped: Stopped
) -> None:
    (refused,) = stopped.status["refused"]

    assert (refused["model"]["digest"], refused["reason"]) == (stopped.model["digest"], "Agreement")
    assert (stopped.status["phase"], stopped.status["model"]["digest"]) == ("Serving", followed.model["digest"])
    assert stopped.after == stopped.before
    assert [label for label, _ in stopped.after] == list(SENTENCES.values())
    assert "GateFailed" in chain.events()


RECORDING = """
import os
from pathlib import Path
from lmops.__main__ import app
from lmops.local.home import Folder
write = Folder.write_status
def written(folder, status):
    with Path(os.environ["RECORD"], folder.kind.lower()).open("a") as record:
        print(status.get("phase"), file=record)
    write(folder, status)
Folder.write_status = written
app()
"""
"""The command, with every status that it writes told as `kubectl get --watch` tells it."""


def test_the_same_folder_gives_the_same_chain_of_statuses_on_a_laptop(
    chain: Chain, served: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/minilm").symlink_to(chain.volumes / "models/minilm")
    places = (f"--volume=data={chain.volumes / 'data'}", f"--volume=models={tmp_path / 'models'}")
    command = [sys.executable, "-c", RECORDING, "local", "apply", "-f", str(CHAIN), *places]
    environment = {**os.environ, "LMOPS_HOME": str(tmp_path / "home"), "RECORD": str(tmp_path)}
    applied = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert applied.stdout
    try:
        url = next((line.split()[-1] for line in applied.stdout if " serving " in line), "")
        phases = {kind: in_turn((tmp_path / kind).read_text().splitlines()) for kind in KINDS}
        labels = [label for label, _ in opinions(url)]
    finally:
        applied.send_signal(signal.SIGINT)
        applied.communicate(timeout=60)

    assert phases == chain.phases
    assert labels == list(SENTENCES.values())
