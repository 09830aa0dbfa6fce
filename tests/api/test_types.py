"""Every rule of a spec is kept, broken, and told in its own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cases import BEFORE, CASES, EDITS, JOBS, MISFORMED, Case, Fields, data, resource, train
from builders import trainingjob
from lmops.api import Resolved, Run, RunId
from lmops.api.base import FORMS
from lmops.api.crd import KINDS, Kind, Schema, resource_schema
from lmops.api.trainingjob import RecipeSpec
from lmops.documents import AdmissionError, read
from lmops.local.admission import Admitted, admit
from lmops.local.home import Home
from lmops.local.tables import now


def unchanging(field: str) -> str:
    """What the owner of a job reads who edits a section."""
    return f"{field} cannot change once the job exists: give the new settings a new name, or delete the job first"


def admitted(folder: Path, sections: Fields, kind: str = "TrainingJob") -> Admitted:
    """What becomes of a job with these sections in its spec."""
    (folder / "reviews.yaml").write_text(yaml.safe_dump(resource(kind, sections)))
    return admit(read([str(folder / "reviews.yaml")]), Home(folder / "home"), [])


def refused(folder: Path, sections: Fields, kind: str = "TrainingJob") -> list[str]:
    """Why such a job is refused, without the lines of the file."""
    with pytest.raises(AdmissionError) as error:
        admitted(folder, sections, kind)
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_no_rule_is_without_a_case(kind: Kind) -> None:
    spec, name = resource_schema(kind)["properties"]["spec"], kind.model.__name__
    mine = [case for case in CASES if case.kind == name]
    told = {(re.sub(r"\[\d\]", "[]", case.place), case.message) for case in mine}

    forms = {f"this is not {words}" for words in FORMS.values()}
    rules = {(place, message) for place, message in ruled(spec) if message not in forms}
    assert told | {("", unchanging(field)) for of, field in EDITS if of == name} == rules


@pytest.mark.parametrize(("place", "broken", "words"), MISFORMED)
def test_a_value_of_another_form_is_answered_with_what_is_accepted(
    tmp_path: Path, place: str, broken: Fields, words: str
) -> None:
    [told] = refused(tmp_path, broken)

    assert told.startswith(f"spec.{place}: ")
    assert told.endswith(f" is not {words}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_breaks_a_rule_is_refused_in_its_words(tmp_path: Path, case: Case) -> None:
    place = ".".join(filter(None, ("spec", case.place)))

    assert refused(tmp_path, case.broken, case.kind) == [f"{place}: {case.message}"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_keeps_a_rule_is_admitted(tmp_path: Path, case: Case) -> None:
    assert len(admitted(tmp_path, case.kept, case.kind).resources) == 1


@pytest.mark.parametrize(("kind", "field"), EDITS)
def test_a_job_that_exists_keeps_its_settings(tmp_path: Path, kind: str, field: str) -> None:
    (manifest,) = admitted(tmp_path, BEFORE.get((kind, field), {}), kind).resources
    Home(tmp_path / "home").folder("default", kind, "reviews").apply(manifest, now())

    assert refused(tmp_path, EDITS[kind, field], kind) == [f"spec: {unchanging(field)}"]


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("field", ["workspace", "credentials"])
def test_a_section_cannot_be_taken_away(tmp_path: Path, kind: str, field: str) -> None:
    (manifest,) = admitted(tmp_path, EDITS[kind, field], kind).resources
    Home(tmp_path / "home").folder("default", kind, "reviews").apply(manifest, now())

    assert refused(tmp_path, {}, kind) == [f"spec: {unchanging(field)}"]


def test_a_service_that_exists_takes_other_settings(tmp_path: Path) -> None:
    kind = "LanguageModelService"
    (manifest,) = admitted(tmp_path, {}, kind).resources
    Home(tmp_path / "home").folder("default", kind, "reviews").apply(manifest, now())

    (edited,) = admitted(
        tmp_path, {"scaling": {"minReplicas": 2}, "model": {"from": {"uri": "pvc://b"}}}, kind
    ).resources
    assert (edited["spec"]["scaling"]["minReplicas"], edited["spec"]["model"]["from"]["uri"]) == (2, "pvc://b")


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
