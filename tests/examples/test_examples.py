"""Every example runs as it is shipped, through the command that its readers type; most with fewer steps."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from lmops.documents import read
from lmops.local.admission import admit
from lmops.local.home import Home

EXAMPLES = Path(__file__).parents[2] / "examples"
Apply = Callable[..., "Ran"]


class Ran:
    """An example's resource after `lmops local apply`, and where its model lies."""

    def __init__(self, code: int, printed: str, resource: dict[str, Any], volumes: Path) -> None:
        self.code, self.printed, self.status, self.volumes = code, printed, resource["status"], volumes

    @property
    def model(self) -> Path:
        """The folder of the published model."""
        return self.volumes / str(self.status["model"]["uri"]).removeprefix("pvc://")

    def losses(self) -> list[float]:
        """Every logged training loss."""
        lines = (json.loads(line) for line in (self.model / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    def fell_by(self) -> float:
        """The first loss over the mean of the last three."""
        losses = self.losses()
        return losses[0] / (sum(losses[-3:]) / 3)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fetched data and models, with room of our own for what is trained."""
    fetched = os.environ.get("LMOPS_TEST_VOLUMES")
    if not fetched or not Path(fetched).is_dir():
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent("LMOPS_TEST_VOLUMES is not set: the examples were NOT tested; `make test` fetches what they need")
    root = tmp_path_factory.mktemp("volumes")
    (root / "data").symlink_to(Path(fetched) / "data")
    (root / "models").mkdir()
    for model in ("minilm", "gpt2-vocabulary"):
        (root / "models" / model).symlink_to(Path(fetched) / "models" / model)
    return root


def command(file: Path, volumes: Path, *sets: str) -> list[str]:
    """`lmops local apply` of an example."""
    places = [f"--volume={claim}={volumes / claim}" for claim in ("data", "models")]
    places.append(f"--volume=scripts={EXAMPLES / 'own-trainer'}")
    words = [word for value in sets for word in ("--set", value)]
    return [sys.executable, "-m", "lmops", "local", "apply", "-f", str(file), *places, *words]


def applying(volumes: Path, home: Path) -> Apply:
    """Runs an example to its end. The engine shares the cores out, as on a user's machine."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"LMOPS_HOME": str(home)}

    def run(file: str, *sets: str) -> Ran:
        typed = [*command(EXAMPLES / file, volumes, *sets), "-o", "yaml"]
        done = subprocess.run(typed, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return Ran(done.returncode, done.stderr, yaml.safe_load(done.stdout), volumes)

    return run


Serve = Callable[..., AbstractContextManager[httpx.Client]]


def serving(volumes: Path, home: Path) -> Serve:
    """Runs a service for the length of a block, in which it can be asked; then it is told to end, as by Ctrl-C."""
    environment = {**os.environ, "LMOPS_HOME": str(home), "OMP_NUM_THREADS": "1"}

    @contextmanager
    def run(file: str, *sets: str) -> Iterator[httpx.Client]:
        typed = command(EXAMPLES / file, volumes, *sets)
        applied = subprocess.Popen(typed, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert applied.stdout
        try:
            said = []
            for line in applied.stdout:
                said.append(line)
                if found := re.search(r" serving .* at (http://\S+)$", line):
                    break
            else:
                pytest.fail(f"{file} never served:\n{''.join(said)}")
            with httpx.Client(base_url=found[1], timeout=60) as client:
                yield client
        finally:
            applied.send_signal(signal.SIGINT)
            rest = applied.communicate(timeout=60)[0]
        assert (applied.returncode, "nothing answers at" in rest) == (130, True), rest

    return run


@pytest.fixture
def apply(volumes: Path, tmp_path: Path) -> Apply:
    """Runs an example to its end, in a home of its own."""
    return applying(volumes, tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home that examples share of which one finds what another has made."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def beside(volumes: Path, home: Path) -> Apply:
    """Runs an example in the home that these share."""
    return applying(volumes, home)


@pytest.fixture(scope="module")
def serve(volumes: Path, home: Path) -> Serve:
    """Runs a service in the home that these share."""
    return serving(volumes, home)


@pytest.fixture(scope="module")
def reviews(beside: Apply) -> Ran:
    """The classifier of the example, in full."""
    return beside("reviews/trainingjob.yaml")


@pytest.fixture(scope="module")
def gpt2(beside: Apply) -> Ran:
    """The language model of the example, with fewer steps."""
    return beside("gpt2/trainingjob.yaml", "training.epochs=null", "training.steps=60")


@pytest.mark.parametrize("story", sorted({str(file.parent.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.yaml")}))
def test_every_example_is_admitted(story: str, tmp_path: Path):
    admitted = admit(read([str(EXAMPLES / story)]), Home(tmp_path), [], "default")

    assert admitted.resources


@pytest.mark.slow
def test_reviews_beats_its_linear_baseline(reviews: Ran):
    ran = reviews

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    assert ran.status["dataset"]["dropped"] == {"duplicate": 2}
    assert ran.status["evaluation"]["beatsBaseline"] is True
    assert ran.status["evaluation"]["metrics"]["accuracy"] > 0.80
    assert {path.name for path in ran.model.iterdir()} >= {
        "model.safetensors", "config.json", "tokenizer.json", "lmops.json", "README.md", "train.log",
        "metrics.jsonl", "report.html", "predictions.parquet", "baseline.json",
    }  # fmt: skip


@pytest.mark.slow
def test_with_its_copies_left_in_even_a_linear_model_reads_chinese_reviews_too_well(apply: Apply):
    ran = apply("reviews-zh/1-duplicates.yaml", "training.epochs=null", "training.steps=3")

    assert ran.code == 0, ran.printed
    assert ran.status["dataset"]["dropped"] == {"tooShort": 109}
    assert ran.status["evaluation"]["baseline"]["accuracy"] > 0.93


@pytest.mark.slow
def test_without_the_copies_the_linear_model_falls_and_a_small_bert_is_told_not_to_beat_it(apply: Apply):
    ran = apply("reviews-zh/2-cleaned.yaml", "training.epochs=null", "training.steps=60")

    assert ran.code == 0, ran.printed
    assert ran.status["dataset"]["dropped"] == {"tooShort": 109, "duplicate": 17650, "conflict": 45}
    assert 0.82 < ran.status["evaluation"]["baseline"]["accuracy"] < 0.89
    assert ran.status["evaluation"]["beatsBaseline"] is False
    assert "does not beat the linear baseline" in ran.status["evaluation"]["verdict"]
    assert "does not beat" in ran.status["display"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "steps", "factor"),
    [
        ("reviews-zh/3-pretrain.yaml", 40, 1.2),
        ("pairs/trainingjob.yaml", 60, 1.15),
        ("pretrain/trainingjob.yaml", 60, 1.2),
    ],
)
def test_the_loss_falls(apply: Apply, file: str, steps: int, factor: float):
    ran = apply(file, "training.epochs=null", f"training.steps={steps}")

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    assert ran.fell_by() > factor


@pytest.mark.slow
def test_a_small_gpt2_learns_to_write(gpt2: Ran):
    assert (gpt2.code, gpt2.status["phase"]) == (0, "Succeeded"), gpt2.printed
    assert gpt2.fell_by() > 1.3


FEWER = ("evaluation.rows=200", "evaluation.repeats=5", "calibration.rows=16")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "sets", "smaller", "form"),
    [
        ("dynamic", (), 3.5, "onnx"),
        ("static", (), 3.5, "onnx"),
        ("mixed-precision", (), 3.5, "onnx"),
        ("mobile", (), 3.5, "executorch"),
        ("prune-then-quantize", ("steps[0].prune.recovery.steps=20",), 4.0, "onnx"),
    ],
)
def test_the_classifier_becomes_smaller(
    beside: Apply, reviews: Ran, file: str, sets: tuple[str, ...], smaller: float, form: str
):
    ran = beside(f"compress-reviews/{file}.yaml", *FEWER, "accept.maxQualityDrop=0.1", *sets)
    report = ran.status["report"]

    assert (ran.code, ran.status["phase"], report["verdict"]) == (0, "Succeeded", "Passed"), ran.printed
    assert ran.status["source"]["digest"] == reviews.status["model"]["digest"]
    assert report["sizeRatio"] > smaller
    assert report["compressed"]["format"] == form
    assert report["agreement"]["value"] > 0.85
    assert report["rows"] == 200
    assert {path.name for path in ran.model.iterdir()} >= {"lmops.json", "report.html", "report.json", "config.json"}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "smaller"), [("int8", 3.5), ("int4", 5.0)])
def test_the_language_model_becomes_smaller(beside: Apply, gpt2: Ran, file: str, smaller: float):
    ran = beside(f"compress-gpt2/{file}.yaml", "evaluation.repeats=5")

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    assert ran.status["source"]["digest"] == gpt2.status["model"]["digest"]
    assert ran.status["report"]["metric"] == "perplexity"
    assert ran.status["report"]["sizeRatio"] > smaller


@pytest.mark.slow
def test_a_search_finds_the_smallest_within_the_limits(beside: Apply, reviews: Ran):
    quick = ("search.trials=3", "search.limits.maxQualityDrop=0.1")
    ran = beside("compress-reviews/search.yaml", *FEWER, *quick)
    search = ran.status["search"]

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    chosen = [trial["method"] for trial in search["trials"] if trial["outcome"] == "Chosen"]
    assert chosen == [ran.status["report"]["method"]]
    assert (search["combinations"], search["tried"]) == (9, 3)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["service", "manual", "gated"])
def test_the_smaller_classifier_is_served(beside: Apply, serve: Serve, reviews: Ran, file: str):
    beside("compress-reviews/dynamic.yaml", *FEWER, "accept.maxQualityDrop=0.1")

    with serve(f"serve-reviews/{file}.yaml") as client:
        told = client.post("/v1/classify", json={"input": ["a triumph, moving and funny", "dull and far too long"]})

    assert told.status_code == 200, told.text
    assert [row["label"] for row in told.json()["data"]] == ["positive", "negative"]


@pytest.mark.slow
def test_what_the_classifier_was_asked_is_kept_and_trained_on(beside: Apply, serve: Serve, reviews: Ran):
    beside("compress-reviews/dynamic.yaml", *FEWER, "accept.maxQualityDrop=0.1")
    texts = ["a triumph, moving and funny", "dull and far too long", "I loved it", "a waste of an evening"] * 20
    with serve("serve-reviews/logged.yaml", "requestLog.fraction=1") as client:
        told = [client.post("/v1/classify", json={"input": f"{n} {text}"}).json() for n, text in enumerate(texts)]

    ran = beside("serve-reviews/retrain.yaml", "training.steps=2", "dataset.validation.holdOut.fraction=0.2")

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    assert ran.status["dataset"]["rowsRead"] == len(told)


@pytest.mark.slow
def test_a_newer_classifier_proves_itself_or_waits_to_be_approved(reviews: Ran, volumes: Path, tmp_path: Path):
    apply, serve, engine = applying(volumes, tmp_path), serving(volumes, tmp_path), Engine(tmp_path)
    trained = ("model.from.trainingJob=null", f"model.from.uri={reviews.status['model']['uri']}")
    first = compressed_anew(apply, engine, *trained)
    busy = "rollout.gates.maxLatencyRatio=10"  # of a machine that does much else meanwhile

    with serve("serve-reviews/gated.yaml", busy) as gated, serve("serve-reviews/manual.yaml") as manual:
        alike = compressed_anew(apply, engine, *trained, "steps[0].quantize.exclude=['*.layer.0.attention.self.query']")
        passed = engine.until("reviews-gated", lambda status: digest(status) == alike)
        offered = engine.until("reviews-manual", lambda status: alike in following(status))
        engine.lmops(
            "apply", "-f", EXAMPLES / "serve-reviews/manual.yaml", "--set", f"model.digest={alike}", "--detach"
        )
        approved = engine.until("reviews-manual", lambda status: digest(status) == alike)

        ran = apply("reviews/trainingjob.yaml", "metadata.name=worse", "training.epochs=null", "training.steps=2")
        worse = compressed_anew(apply, engine, "model.from.trainingJob.name=worse")
        failed = engine.until("reviews-gated", lambda status: bool(status.get("refused")))
        told = [
            each.post("/v1/classify", json={"input": ["moving and funny", "dull"]}).json() for each in (gated, manual)
        ]

    assert (ran.code, len({first, alike, worse})) == (0, 3), ran.printed
    gate = passed["rollout"]["gate"]
    assert (gate["state"], gate["figures"]["errorRatio"]) == ("Passed", 0)
    assert gate["figures"]["agreement"] >= 0.9
    assert (digest(offered), digest(approved)) == (first, alike)
    assert (digest(failed), failed["refused"][0]["model"]["digest"]) == (alike, worse)
    assert failed["refused"][0]["reason"] == "Agreement"
    for answer in told:
        assert [row["label"] for row in answer["data"]] == ["positive", "negative"]


class Engine:
    """`lmops local` in another terminal."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "LMOPS_HOME": str(home)}

    def lmops(self, *words: str | Path) -> str:
        """What a command prints."""
        typed = [sys.executable, "-m", "lmops", "local", *map(str, words)]
        done = subprocess.run(typed, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def until(self, name: str, happened: Callable[[dict[str, Any]], bool], seconds: float = 240) -> dict[str, Any]:
        """The status of a service, once something has happened to it."""
        end, status = time.monotonic() + seconds, dict[str, Any]()
        while time.monotonic() < end:
            status = yaml.safe_load(self.lmops("get", f"languagemodelservice/{name}", "-o", "yaml"))["status"]
            if happened(status):
                return status
            time.sleep(0.5)
        pytest.fail(f"{name} came no further than:\n{yaml.safe_dump(status)}")


def compressed_anew(apply: Apply, engine: Engine, *sets: str) -> str:
    """The digest of a model of the job that the services follow, which takes the place of one that was there."""
    engine.lmops("delete", "--ignore-not-found", "quantizejob/reviews-int8")
    ran = apply("compress-reviews/dynamic.yaml", *FEWER, "accept=null", *sets)
    assert ran.code == 0, ran.printed
    return digest(ran.status)


def digest(status: dict[str, Any]) -> str:
    """The digest of the model that was made, or that answers."""
    return str(status["model"]["digest"])


def following(status: dict[str, Any]) -> str:
    """What a service says of the model that it follows."""
    return "".join(each["message"] for each in status["conditions"] if each["type"] == "Following")


@pytest.mark.slow
def test_the_language_model_writes_and_streams(serve: Serve, gpt2: Ran):
    asked = {"model": "gpt2", "messages": [{"role": "user", "content": "The prime minister"}], "seed": 1}
    with serve("serve-gpt2/service.yaml") as client:
        told = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
        with client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as stream:
            lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]

    assert lines[-1] == "[DONE]"
    streamed = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(streamed) == told["message"]["content"] != ""


@pytest.mark.slow
def test_embeddings_are_near_for_what_is_near_in_meaning(serve: Serve):
    texts = ["A cat sleeps on the sofa.", "The kitten is napping on the couch.", "Interest rates rose again."]
    with serve("serve-embeddings/service.yaml") as client:
        told = client.post("/v1/embeddings", json={"model": "embeddings", "input": texts}).json()["data"]
    cat, kitten, rates = ([float(value) for value in row["embedding"]] for row in told)

    assert cosine(cat, kitten) > 0.6 > 0.3 > cosine(cat, rates)


def cosine(one: list[float], other: list[float]) -> float:
    """How near two vectors are in direction."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.slow
def test_masks_are_filled(beside: Apply, serve: Serve):
    beside("pretrain/trainingjob.yaml", "training.epochs=null", "training.steps=5")

    with serve("serve-masks/service.yaml") as client:
        told = client.post("/v1/fill-mask", json={"input": "the prime [MASK] said so", "top_k": 3}).json()

    (mask,) = told["data"][0]["masks"]
    assert len({word["token"] for word in mask}) == 3
    assert [word["probability"] for word in mask] == sorted((word["probability"] for word in mask), reverse=True)


@pytest.mark.slow
def test_a_frozen_encoder_keeps_its_weights(apply: Apply):
    from safetensors.torch import load_file

    ran = apply("pairs/frozen.yaml", "training.epochs=null", "training.steps=20")
    before = load_file(ran.volumes / "models" / "minilm" / "model.safetensors")
    after = load_file(ran.model / "model.safetensors")

    assert ran.code == 0, ran.printed
    key = "encoder.layer.3.output.dense.weight"
    assert before[key].equal(after[f"bert.{key}"])


@pytest.mark.slow
def test_a_script_of_the_users_own_reports_its_progress_as_it_is(apply: Apply):
    ran = apply("own-trainer/trainingjob.yaml", "trainer.command[6]=--steps=6")

    assert (ran.code, ran.status["phase"]) == (0, "Succeeded"), ran.printed
    assert [run["name"] for run in ran.status["runs"]] == ["own-trainer-train-a0"]
    assert ran.status["progress"]["runs"]["own-trainer-train-a0"]["steps"] == 6
    assert ran.status["metrics"]["loss"] > 0
    assert (ran.volumes / "models" / "own-trainer" / "model.safetensors").exists()


def test_two_nodes_train_one_model_and_heal_a_killed_rank(volumes: Path, tmp_path: Path):
    file = EXAMPLES / "two-nodes" / "trainingjob.yaml"
    sets = ("training.epochs=null", "training.steps=30", "checkpoint.every.steps=5", "dataset.maxLength=32")
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"LMOPS_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*command(file, volumes, *sets), "-o", "yaml"], env=environment, stdout=subprocess.PIPE, text=True
    )
    killed = kill_a_rank(process.pid, volumes / "models" / "two-nodes")
    printed, _ = process.communicate(timeout=400)
    status = yaml.safe_load(printed)["status"]

    assert killed
    assert (process.returncode, status["phase"], status["restarts"]) == (0, "Succeeded", 0)
    assert status["best"]["step"] == 30
    assert [run["name"] for run in status["runs"]] == [
        "two-nodes-prepare-a0",
        "two-nodes-train-a0",
        "two-nodes-evaluate-a0",
    ]


def kill_a_rank(engine: int, output: Path) -> bool:
    """Kills a training process with SIGKILL once a checkpoint is complete."""
    for _ in range(1200):
        if list(output.glob(".lmops/jobs/*/checkpoints/*/*/complete.json")):
            family = psutil.Process(engine).children(recursive=True)
            ranks = [process for process in family if "TORCHELASTIC_RUN_ID" in process.environ()]
            if ranks:
                ranks[-1].kill()
                return True
        time.sleep(0.1)
    return False
