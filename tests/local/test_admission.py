"""What is refused before anything starts, sentence by sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmops.documents import AdmissionError, read
from lmops.local.admission import Admitted, admit
from lmops.local.home import Home
from lmops.local.tables import now

GOOD = """\
apiVersion: lmops.dev/v1alpha1
kind: TrainingJob
metadata:
  name: reviews
spec:
  model:
    from: {uri: pvc://models/minilm}
    task: SequenceClassification
  dataset:
    train:
      uri: pvc://data/reviews.csv
  training:
    epochs: 2
  output: {uri: pvc://models/reviews}
"""


def admitted(folder: Path, text: str, *assignments: str) -> Admitted:
    """What becomes of a file."""
    (folder / "reviews.yaml").write_text(text)
    return admit(read([str(folder / "reviews.yaml")]), Home(folder / "home"), list(assignments))


def refused(folder: Path, text: str, *assignments: str) -> list[str]:
    """Why a file is refused."""
    with pytest.raises(AdmissionError) as error:
        admitted(folder, text, *assignments)
    return [sentence.replace(f"{folder}/", "") for sentence in error.value.problems]


@pytest.mark.parametrize(
    ("good", "bad", "sentences"),
    [
        ("task:", "taks:", ['reviews.yaml:8: spec.model.taks: no such field; did you mean "task"?']),
        ("epochs: 2", "epochs: many", ['reviews.yaml:13: spec.training.epochs: "many" is not a number']),
        ("epochs: 2", "seed: 1.5", ["reviews.yaml:13: spec.training.seed: 1.5 is not a whole number"]),
        ("epochs: 2", "seed: -1", ["reviews.yaml:13: spec.training.seed: -1 is below 0"]),
        ("epochs: 2", "epochs: 0", ["reviews.yaml:13: spec.training.epochs: 0 is not above 0"]),
        ("epochs: 2", "warmupRatio: 2", ["reviews.yaml:13: spec.training.warmupRatio: 2 is above 1"]),
        ("epochs: 2", "compile: 1", ["reviews.yaml:13: spec.training.compile: 1 is not true or false"]),
        ("epochs: 2", "reportTo: Board", ['reviews.yaml:13: spec.training.reportTo: "Board" is not a list']),
        ("epochs: 2", "precision: fp61", [
            'reviews.yaml:13: spec.training.precision: "fp61" is not one of fp32, fp16, bf16; did you mean "fp16"?'
        ]),
        ("epochs: 2", "precision: BF16", [
            'reviews.yaml:13: spec.training.precision: "BF16" is not one of fp32, fp16, bf16; did you mean "bf16"?'
        ]),
        ("epochs: 2", "learning_rate: 1e-4", [
            'reviews.yaml:13: spec.training.learning_rate: no such field; did you mean "learningRate"?'
        ]),
        ("epochs: 2", "epochs: 2\n    steps: 5", ["reviews.yaml:12: spec.training: set only one of epochs and steps"]),
        ("uri: pvc://data/reviews.csv", "uri: pvc://data/a\n      uris: [pvc://data/b]", [
            "reviews.yaml:10: spec.dataset.train: set exactly one of uri, uris and sources"
        ]),
        ("uri: pvc://data/reviews.csv", "sources:\n      - {uri: pvc://data/a}\n      - {}", [
            "reviews.yaml:13: spec.dataset.train.sources[1]: set exactly one of uri and uris"
        ]),
        ("pvc://models/reviews", "models/reviews", [
            'reviews.yaml:14: spec.output.uri: "models/reviews" is not a URI on a volume: write pvc://claim/folder'
        ]),
        ("pvc://models/reviews", "pvc://models/../x", [
            "reviews.yaml:14: spec.output.uri: a URI may not step out of its volume with '..'"
        ]),
        ("  output: {uri: pvc://models/reviews}\n", "", ["reviews.yaml:5: spec.output: must be set"]),
        ("name: reviews", "name: Reviews", [
            'reviews.yaml:4: metadata.name: "Reviews" is not a name: at most 36 small letters, digits and hyphens, '
            "the first a letter, the last no hyphen"
        ]),
        ("name: reviews", "nmae: reviews", ['reviews.yaml:4: metadata.nmae: no such field; did you mean "name"?']),
        ("kind: TrainingJob", "kind: TrainingJobs", [
            'reviews.yaml:2: kind: "TrainingJobs" is not known here; did you mean "TrainingJob"?'
        ]),
        ("v1alpha1", "v1", ['reviews.yaml:1: apiVersion: "lmops.dev/v1" is not known here; write lmops.dev/v1alpha1']),
        ("name: reviews", "name: 'reviews", ["reviews.yaml:15: this is not YAML: found unexpected end of stream"]),
        (GOOD[GOOD.index("spec:"):], "spec: 5\n", ["reviews.yaml:5: spec: 5 is not a mapping of fields"]),
        (GOOD, "- 1\n", ["reviews.yaml:1: this is not a Kubernetes resource: it has no apiVersion, kind and metadata"]),
        (GOOD, "", ["There is nothing in these files to apply."]),
        ("epochs: 2", "epochs: many\n    sede: 1\n    batchSize: 4\n    microBatchSize: 8", [
            "reviews.yaml:12: spec.training: microBatchSize is above batchSize",
            'reviews.yaml:13: spec.training.epochs: "many" is not a number',
            'reviews.yaml:14: spec.training.sede: no such field; did you mean "seed"?',
        ]),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_by_field_and_line(tmp_path: Path, good: str, bad: str, sentences: list[str]) -> None:
    assert good in GOOD
    assert refused(tmp_path, GOOD.replace(good, bad)) == sentences


def test_a_good_file_is_kept_with_its_defaults(tmp_path: Path) -> None:
    (manifest,) = admitted(tmp_path, GOOD).resources

    assert manifest["metadata"] == {"namespace": "default", "name": "reviews"}
    assert manifest["spec"]["training"]["epochs"] == 2.0
    assert manifest["spec"]["dataset"]["validation"] == {"holdOut": {"fraction": 0.1}}


@pytest.mark.parametrize(
    ("assignments", "training"),
    [
        (["training.steps=5", "training.epochs=null"], {"steps": 5}),
        (["spec.training.learningRate=1e-4"], {"epochs": 2.0, "learningRate": 1e-4}),
        (["training={steps: 7}"], {"steps": 7}),
    ],
)
def test_set_replaces_a_field(tmp_path: Path, assignments: list[str], training: dict[str, Any]) -> None:
    (manifest,) = admitted(tmp_path, GOOD, *assignments).resources

    assert {key: manifest["spec"]["training"].get(key) for key in training} == training
    assert ("epochs" in manifest["spec"]["training"]) == ("epochs" in training)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.seed=x", '--set training.seed=x: spec.training.seed: "x" is not a whole number'),
        ("training.stesp=5", '--set training.stesp=5: spec.training.stesp: no such field; did you mean "steps"?'),
        ("training.steps", "--set training.steps: write it as path=value, as in --set training.steps=5"),
        ("model.task.x=1", "--set model.task.x=1: there is no such place in reviews.yaml"),
    ],
)
def test_a_bad_set_is_told_by_itself(tmp_path: Path, assignment: str, sentence: str) -> None:
    assert refused(tmp_path, GOOD, assignment) == [sentence]


def test_a_field_that_cannot_change_is_refused_in_the_words_of_its_rule(tmp_path: Path) -> None:
    (manifest,) = admitted(tmp_path, GOOD).resources
    Home(tmp_path / "home").folder("default", "TrainingJob", "reviews").apply(manifest, now())

    assert refused(tmp_path, GOOD, "training.epochs=3") == [
        "reviews.yaml:5: spec: training cannot change once the job exists: "
        "give the new settings a new name, or delete the job first"
    ]
    assert admitted(tmp_path, GOOD, "suspend=true").resources[0]["spec"]["suspend"] is True


def test_problems_of_several_documents_are_told_together(tmp_path: Path) -> None:
    text = GOOD.replace("task:", "taks:") + "---\n" + GOOD.replace("epochs: 2", "epochs: x").replace("reviews\n", "b\n")

    assert refused(tmp_path, text) == [
        'reviews.yaml:8: spec.model.taks: no such field; did you mean "task"?',
        'reviews.yaml:28: spec.training.epochs: "x" is not a number',
    ]


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, f"{GOOD}---\n{GOOD}") == ["trainingjob/reviews stands in these files more than once"]


def test_the_same_name_in_two_namespaces_is_two_resources(tmp_path: Path) -> None:
    team = GOOD.replace("name: reviews\n", "name: reviews\n  namespace: team\n", 1)
    found = admitted(tmp_path, f"{GOOD}---\n{team}")

    assert [manifest["metadata"] for manifest in found.resources] == [
        {"namespace": "default", "name": "reviews"},
        {"namespace": "team", "name": "reviews"},
    ]
    assert refused(tmp_path, f"{team}---\n{team}") == [
        "trainingjob/reviews -n team stands in these files more than once"
    ]


def test_a_secret_is_kept_in_the_namespace_of_its_job(tmp_path: Path) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: hub}\n"
    (tmp_path / "hub.yaml").write_text(secret)
    found = admit(read([str(tmp_path / "hub.yaml")]), Home(tmp_path), [], "team")

    assert [manifest["metadata"] for manifest in found.others] == [{"namespace": "team", "name": "hub"}]


def test_secrets_and_claims_may_stand_beside_a_job(tmp_path: Path) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: hub}\nstringData: {HF_TOKEN: sesame}\n"
    found = admitted(tmp_path, GOOD + secret)

    assert [manifest["kind"] for manifest in (*found.resources, *found.others)] == ["TrainingJob", "Secret"]
