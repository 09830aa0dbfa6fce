"""Every rule of a spec, with a spec that keeps it, one that breaks it, and the sentence that its owner reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import trainingjob
from lmops.api import Resolved, Run, RunId
from lmops.api.crd import KINDS, Schema, resource_schema
from lmops.api.trainingjob import RecipeSpec
from lmops.documents import AdmissionError, read
from lmops.local.admission import Admitted, admit
from lmops.local.home import Home
from lmops.local.tables import now

Fields = dict[str, Any]


class Case(NamedTuple):
    """A rule: where it speaks, what it says, sections that keep it, and sections that break it."""

    place: str
    message: str
    kept: Fields
    broken: Fields

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


FOLDER = {"uri": "pvc://models/minilm"}
SCRATCH = {"architecture": {"name": "bert"}}
WORDS = {"train": {"vocabularySize": 300}}
OUTSIDE = "pvc://data/../secrets"
STEPS_OUT = "a URI may not step out of its volume with '..'"
ONE_SOURCE = "set exactly one of uri and uris"
ONE_LABEL = "a source has a label of its own or a label column, not both"
RHYTHM = "set at least one of steps, epochs and minutes"


def model(**fields: Any) -> Fields:
    """A model section."""
    return {"model": {"from": FOLDER, "task": "SequenceClassification", **fields}}


def data(**fields: Any) -> Fields:
    """A dataset section."""
    return {"dataset": {"train": {"uri": "pvc://data/a.csv"}, **fields}}


def train(**fields: Any) -> Fields:
    """A dataset section with these training rows."""
    return data(train=fields)


def source(**fields: Any) -> Fields:
    """A dataset section with one source of training rows."""
    return train(sources=[fields])


def validation(**fields: Any) -> Fields:
    """A dataset section with validation rows of their own."""
    return data(validation={"from": fields})


def settings_of(**fields: Any) -> Fields:
    """A training section."""
    return {"training": fields}


def own(**fields: Any) -> Fields:
    """A trainer of the user's own, without a model and data of ours."""
    trainer = {"image": "registry.example/t:1", "command": ["torchrun", "t.py"], **fields}
    return {"trainer": trainer, "model": None, "dataset": None}


def env(name: str) -> Fields:
    """A pod section with one variable."""
    return {"pod": {"env": [{"name": name, "value": "1"}]}}


CASES = [
    Case("", "set model, or a trainer of your own", own(), {"model": None}),
    Case("", "set dataset, or a trainer of your own", own(), {"dataset": None}),
    Case("", "a trainer of your own brings its model: leave model out", own(), own() | model()),
    Case("", "a trainer of your own reads its data itself: leave dataset out", own(), own() | data()),
    Case(
        "pod",
        "labels that begin with lmops.dev/, training.kubeflow.org/, batch.kubernetes.io/, kueue.x-k8s.io/"
        " are set by controllers",
        {"pod": {"labels": {"team": "nlp", "x.example/lmops.dev": "a"}}},
        {"pod": {"labels": {"team": "nlp", "lmops.dev/job": "other"}}},
    ),
    Case(
        "pod",
        "annotations that begin with lmops.dev/, training.kubeflow.org/, batch.kubernetes.io/, kueue.x-k8s.io/"
        " are set by controllers",
        {"pod": {"annotations": {"sidecar.istio.io/inject": "false"}}},
        {"pod": {"annotations": {"kueue.x-k8s.io/podset": "x"}}},
    ),
    Case(
        "pod.env[0]",
        "variables that begin with LMOPS_, PET_, TORCHELASTIC_, KUBEFLOW_TRAINER_, MASTER_, RANK, WORLD_SIZE"
        " are the runtime's own",
        env("NCCL_DEBUG"),
        env("RANK"),
    ),
    Case(
        "pod.env[0]",
        "put it into a Secret, and name that in credentials.secretName",
        env("TOKENIZERS_PARALLELISM"),
        env("HF_TOKEN"),
    ),
    Case(
        "model",
        "a model from an architecture needs a tokenizer",
        model(**{"from": SCRATCH}, tokenizer=WORDS),
        model(**{"from": SCRATCH}),
    ),
    Case(
        "model",
        "freeze goes with trained weights: random ones would stay random",
        model(freeze="Encoder"),
        model(**{"from": SCRATCH}, tokenizer=WORDS, freeze="Encoder"),
    ),
    Case(
        "model.from",
        "set exactly one of uri and architecture",
        model(),
        model(**{"from": {**FOLDER, **SCRATCH}}, tokenizer=WORDS),
    ),
    Case("model.from", "set exactly one of uri and architecture", model(), model(**{"from": {}})),
    Case(
        "model.from.uri",
        STEPS_OUT,
        model(**{"from": {"uri": "pvc://models/a..b"}}),
        model(**{"from": {"uri": OUTSIDE}}),
    ),
    Case(
        "model.tokenizer",
        "set exactly one of uri and train",
        model(tokenizer=FOLDER),
        model(tokenizer={**FOLDER, **WORDS}),
    ),
    Case("model.tokenizer", "set exactly one of uri and train", model(tokenizer=WORDS), model(tokenizer={})),
    Case("model.tokenizer.uri", STEPS_OUT, model(tokenizer=FOLDER), model(tokenizer={"uri": OUTSIDE})),
    Case(
        "dataset.train",
        "set exactly one of uri, uris and sources",
        train(uris=["pvc://data/a", "pvc://data/b"]),
        train(uri="pvc://data/a", sources=[{"uri": "pvc://data/b"}]),
    ),
    Case("dataset.train", "set exactly one of uri, uris and sources", train(uri="hf://nyu-mll/glue"), train()),
    Case("dataset.train.uri", STEPS_OUT, train(uri="pvc://data/*.csv"), train(uri=OUTSIDE)),
    Case("dataset.train.uris[1]", STEPS_OUT, train(uris=["pvc://data/a"]), train(uris=["pvc://data/a", OUTSIDE])),
    Case("dataset.train.sources[0]", ONE_SOURCE, source(uri="pvc://data/a"), source()),
    Case(
        "dataset.train.sources[0]",
        ONE_SOURCE,
        source(uris=["pvc://data/a"]),
        source(uri="pvc://data/a", uris=["pvc://data/b"]),
    ),
    Case(
        "dataset.train.sources[0]",
        ONE_LABEL,
        source(uri="pvc://data/a", label="positive", columns={"text": "review"}),
        source(uri="pvc://data/a", label="positive", columns={"label": "stars"}),
    ),
    Case("dataset.train.sources[0].uri", STEPS_OUT, source(uri="pvc://data"), source(uri=OUTSIDE)),
    Case("dataset.train.sources[0].uris[0]", STEPS_OUT, source(uris=["pvc://data"]), source(uris=[OUTSIDE])),
    Case(
        "dataset.validation",
        "set exactly one of from and holdOut",
        data(validation={"holdOut": {"fraction": 0.2}}),
        data(validation={"from": {"uri": "pvc://data/b"}, "holdOut": {}}),
    ),
    Case("dataset.validation", "set exactly one of from and holdOut", data(), data(validation={})),
    Case("dataset.validation.from", ONE_SOURCE, validation(uri="pvc://data/b"), validation()),
    Case(
        "dataset.validation.from",
        ONE_LABEL,
        validation(uri="pvc://data/b", columns={"label": "stars"}),
        validation(uri="pvc://data/b", columns={"label": 1}, label="positive"),
    ),
    Case("dataset.validation.from.uri", STEPS_OUT, validation(uri="pvc://data/b"), validation(uri=OUTSIDE)),
    Case("dataset.validation.from.uris[0]", STEPS_OUT, validation(uris=["pvc://data/b"]), validation(uris=[OUTSIDE])),
    Case(
        "dataset.test",
        "set exactly one of uri, uris and fraction",
        data(test={"fraction": 0.1}),
        data(test={"uri": "pvc://data/c", "fraction": 0.1}),
    ),
    Case(
        "dataset.test",
        "set exactly one of uri, uris and fraction",
        data(test={"uris": ["pvc://data/c"]}),
        data(test={}),
    ),
    Case(
        "dataset.test",
        "stratifyBy goes with fraction",
        data(test={"fraction": 0.1, "stratifyBy": "label"}),
        data(test={"uri": "pvc://data/c", "stratifyBy": "label"}),
    ),
    Case(
        "dataset.test",
        "groupBy goes with fraction",
        data(test={"fraction": 0.1, "groupBy": "author"}),
        data(test={"uri": "pvc://data/c", "groupBy": "author"}),
    ),
    Case("dataset.test.uri", STEPS_OUT, data(test={"uri": "pvc://data/c"}), data(test={"uri": OUTSIDE})),
    Case("dataset.test.uris[0]", STEPS_OUT, data(test={"uris": ["pvc://data/c"]}), data(test={"uris": [OUTSIDE]})),
    Case(
        "dataset.clean.length",
        "length.min is above length.max",
        data(clean={"length": {"min": 5, "max": 5}}),
        data(clean={"length": {"min": 6, "max": 5}}),
    ),
    Case("training", "set only one of epochs and steps", settings_of(steps=5), settings_of(steps=5, epochs=1)),
    Case(
        "training",
        "set only one of warmupRatio and warmupSteps",
        settings_of(warmupSteps=0),
        settings_of(warmupSteps=0, warmupRatio=0),
    ),
    Case(
        "training",
        "microBatchSize is above batchSize",
        settings_of(batchSize=8, microBatchSize=8),
        settings_of(batchSize=8, microBatchSize=9),
    ),
    Case(
        "training", "microBatchSize is above batchSize", settings_of(microBatchSize=32), settings_of(microBatchSize=33)
    ),
    Case(
        "evaluation.every", RHYTHM, {"evaluation": {"every": {"steps": 5, "epochs": 1}}}, {"evaluation": {"every": {}}}
    ),
    Case("checkpoint.every", RHYTHM, {"checkpoint": {"every": {"minutes": 0.5}}}, {"checkpoint": {"every": {}}}),
    Case("workspace.uri", STEPS_OUT, {"workspace": {"uri": "pvc://work/a"}}, {"workspace": {"uri": "pvc://work/../b"}}),
    Case("output.uri", STEPS_OUT, {"output": {"uri": "pvc://models"}}, {"output": {"uri": "pvc://models/.."}}),
]

EDITS: dict[str, Fields] = {
    "model": model(task="CausalLM"),
    "dataset": data(maxLength=64),
    "training": settings_of(seed=43),
    "evaluation": {"evaluation": {"metric": "loss"}},
    "checkpoint": {"checkpoint": {"keep": 3}},
    "workspace": {"workspace": {"uri": "pvc://work/a"}},
    "resources": {"resources": {"nodes": 2}},
    "retry": {"retry": {"restarts": 0}},
    "output": {"output": {"uri": "pvc://models/other"}},
    "credentials": {"credentials": {"secretName": "hub"}},
    "trainer": own(command=["torchrun", "other.py"]),
    "pod": {"pod": {"priorityClassName": "high"}},
    "queueName": {"queueName": "gpu"},
    "ttlSecondsAfterFinished": {"ttlSecondsAfterFinished": 60},
}
"""A section of a spec, and an edit of it or, where there was none, its addition."""
BEFORE = {"trainer": own()}
"""What the job was before its edit, where that is not the ordinary one."""


def unchanging(field: str) -> str:
    """What the owner of a job reads who edits a section."""
    return f"{field} cannot change once the job exists: give the new settings a new name, or delete the job first"


def admitted(folder: Path, sections: Fields) -> Admitted:
    """What becomes of a job with these sections in its spec."""
    spec = {**model(), **data(), "output": {"uri": "pvc://models/reviews"}, **sections}
    resource = {
        "apiVersion": "lmops.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "reviews"},
        "spec": {section: value for section, value in spec.items() if value is not None},
    }
    (folder / "reviews.yaml").write_text(yaml.safe_dump(resource))
    return admit(read([str(folder / "reviews.yaml")]), Home(folder / "home"), [])


def refused(folder: Path, sections: Fields) -> list[str]:
    """Why such a job is refused, without the lines of the file."""
    with pytest.raises(AdmissionError) as error:
        admitted(folder, sections)
    return [sentence.partition(": ")[2] for sentence in error.value.problems]


def ruled(schema: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    """Every rule of a schema: its place and its message."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path.removeprefix("."), rule["message"]
    for name, inner in schema.get("properties", {}).items():
        yield from ruled(inner, f"{path}.{name}")
    if "items" in schema:
        yield from ruled(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from ruled(schema["additionalProperties"], f"{path}.*")


def test_no_rule_is_without_a_case() -> None:
    spec = resource_schema(KINDS[0])["properties"]["spec"]
    told = {(case.place.replace("[0]", "[]").replace("[1]", "[]"), case.message) for case in CASES}

    assert told | {("", unchanging(field)) for field in EDITS} == set(ruled(spec))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_breaks_a_rule_is_refused_in_its_words(tmp_path: Path, case: Case) -> None:
    place = ".".join(filter(None, ("spec", case.place)))

    assert refused(tmp_path, case.broken) == [f"{place}: {case.message}"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_keeps_a_rule_is_admitted(tmp_path: Path, case: Case) -> None:
    assert len(admitted(tmp_path, case.kept).resources) == 1


@pytest.mark.parametrize("field", EDITS)
def test_a_job_that_exists_keeps_its_settings(tmp_path: Path, field: str) -> None:
    (manifest,) = admitted(tmp_path, BEFORE.get(field, {})).resources
    Home(tmp_path / "home").folder("default", "TrainingJob", "reviews").apply(manifest, now())

    assert refused(tmp_path, EDITS[field]) == [f"spec: {unchanging(field)}"]


@pytest.mark.parametrize("field", ["workspace", "credentials"])
def test_a_section_cannot_be_taken_away(tmp_path: Path, field: str) -> None:
    (manifest,) = admitted(tmp_path, EDITS[field]).resources
    Home(tmp_path / "home").folder("default", "TrainingJob", "reviews").apply(manifest, now())

    assert refused(tmp_path, {}) == [f"spec: {unchanging(field)}"]


def test_a_default_that_is_written_out_changes_nothing(tmp_path: Path) -> None:
    (manifest,) = admitted(tmp_path, {}).resources
    Home(tmp_path / "home").folder("default", "TrainingJob", "reviews").apply(manifest, now())

    written = {"training": {"seed": 42}, "retry": {"restarts": 3}, "suspend": True}
    assert admitted(tmp_path, written).resources[0]["spec"] == {**manifest["spec"], "suspend": True}


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"resources": {"perNode": {"memory": "lots"}}}, "spec.resources.perNode.memory"),
        ({"resources": {"perNode": {"cpu": "2Gi"}}}, "spec.resources.perNode.cpu"),
        ({"resources": {"perNode": {"memory": "9" * 33}}}, "spec.resources.perNode.memory"),
        (train(uri="pvc://data/a.csv", columns={"text": ""}), "spec.dataset.train.columns.text"),
        (train(uri="pvc://data/a.csv", columns={"text": "x" * 129}), "spec.dataset.train.columns.text"),
        (train(uri="pvc://Data/a.csv"), "spec.dataset.train.uri"),
        (train(uri="/data/a.csv"), "spec.dataset.train.uri"),
        ({"output": {"uri": "hf://owner/name"}}, "spec.output.uri"),
        ({"evaluation": {"metric": "f2"}}, "spec.evaluation.metric"),
        (data(validation={"holdOut": {"fraction": 1}}), "spec.dataset.validation.holdOut.fraction"),
    ],
)
def test_a_value_out_of_bounds_is_refused_at_its_place(tmp_path: Path, sections: Fields, place: str) -> None:
    (sentence,) = refused(tmp_path, sections)

    assert sentence.startswith(f"{place}: ")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("$()\\\"'ab{}\u2028语"), min_size=1, max_size=30))
def test_a_document_holds_nothing_that_kubernetes_would_expand(word: str) -> None:
    spec = trainingjob(
        dataset={"train": {"uri": "pvc://data/a", "columns": {"text": word, "classes": {word: "<=0"}}}}
    ).spec
    run = Run(
        spec=RecipeSpec.model_construct(**dict(spec)),
        run=RunId(job="reviews", uid="u-1", stage="prepare"),
        resolved=Resolved(),
    )

    assert "$" not in run.document()
    assert Run.model_validate_json(run.document()) == run
    assert json.loads(run.document())["spec"]["dataset"]["train"]["columns"]["text"] == word
