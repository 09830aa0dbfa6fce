"""Our CRDs on a real API server: it takes them, explains them, and refuses in the same words as the laptop."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from api.cases import BEFORE, CASES, EDITS, JOBS, MISFORMED, Case, Fields, model, resource
from api.test_types import unchanging
from builders import World, trainingjob
from cluster.client import Cluster, KubectlError, Manifest
from lmops.api.crd import KINDS, Kind, Schema, resource_schema

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENTS = sorted(EXAMPLES.glob("*/*.yaml"))


def job(sections: Fields) -> Manifest:
    """A TrainingJob with these sections in its spec."""
    return resource("TrainingJob", sections)


def tried(cluster: Cluster, manifest: Manifest) -> Manifest:
    """What the server would make of a manifest."""
    command = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    found: Manifest = json.loads(cluster.kubectl(*command, stdin=json.dumps(manifest)))
    return found


def refused(cluster: Cluster, *command: str, manifest: Manifest) -> list[str]:
    """Why the server refuses a manifest: its own words, a line for each field, without a text that it repeats."""
    with pytest.raises(KubectlError) as error:
        cluster.kubectl(*command, "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    told = re.sub(r'(Invalid value: )"[^"]*": ', r"\1", str(error.value))
    return [line.strip("* ") for line in told.splitlines()]


def test_the_crds_are_established(cluster: Cluster) -> None:
    served = cluster.kubectl("api-resources", "--api-group=lmops.dev", "-o", "name").split()

    assert served == sorted(f"{kind.plural}.lmops.dev" for kind in KINDS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_breaks_a_rule_is_refused_in_its_words(cluster: Cluster, case: Case) -> None:
    place = ".".join(filter(None, ("spec", case.place)))

    assert refused(cluster, "create", manifest=resource(case.kind, case.broken)) == [
        f'The {case.kind} "reviews" is invalid: {place}: Invalid value: {case.message}'
    ]


@pytest.mark.parametrize(("place", "broken", "words"), MISFORMED)
def test_a_value_of_another_form_is_answered_with_what_is_accepted(
    cluster: Cluster, place: str, broken: Fields, words: str
) -> None:
    said = f'The TrainingJob "reviews" is invalid: spec.{place}: Invalid value: this is not {words}'

    assert refused(cluster, "create", manifest=job(broken)) == [said]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spec_that_keeps_a_rule_is_admitted(cluster: Cluster, case: Case) -> None:
    assert tried(cluster, resource(case.kind, case.kept))["kind"] == case.kind


@pytest.mark.parametrize(("kind", "field"), EDITS)
def test_a_job_that_exists_keeps_its_settings(cluster: Cluster, namespace: str, kind: str, field: str) -> None:
    cluster.apply(resource(kind, BEFORE.get((kind, field), {})), namespace=namespace)

    assert refused(cluster, "replace", "-n", namespace, manifest=resource(kind, EDITS[kind, field])) == [
        f'The {kind} "reviews" is invalid: spec: Invalid value: {unchanging(field)}'
    ]


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("field", ["workspace", "credentials"])
def test_a_section_cannot_be_taken_away(cluster: Cluster, namespace: str, kind: str, field: str) -> None:
    cluster.apply(resource(kind, EDITS[kind, field]), namespace=namespace)

    assert refused(cluster, "replace", "-n", namespace, manifest=resource(kind, {})) == [
        f'The {kind} "reviews" is invalid: spec: Invalid value: {unchanging(field)}'
    ]


def test_suspend_and_defaults_that_are_written_out_may_change(cluster: Cluster, namespace: str) -> None:
    cluster.apply(job({}), namespace=namespace)
    before = cluster.get("trainingjob", "reviews", namespace)

    cluster.apply(job({"training": {"seed": 42}, "retry": {"restarts": 3}, "suspend": True}), namespace=namespace)

    after = cluster.get("trainingjob", "reviews", namespace)
    assert after["spec"] == {**before["spec"], "suspend": True}
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


def test_a_name_that_children_could_not_bear_is_refused(cluster: Cluster) -> None:
    manifest = job({}) | {"metadata": {"name": "r" * 37}}

    assert "metadata.name: Too long: may not be more than 36 bytes" in refused(cluster, "create", manifest=manifest)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_an_example_is_admitted_with_the_defaults_of_its_types(cluster: Cluster, document: Path) -> None:
    command = ("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", document)
    written = yaml.safe_load(document.read_text())
    form = next(kind.model for kind in KINDS if kind.model.__name__ == written["kind"])
    admitted, written = (form.model_validate(each).spec for each in (json.loads(cluster.kubectl(*command)), written))

    assert admitted.model_dump(exclude_unset=True) == written.model_dump(exclude_none=True)


def test_a_field_that_there_is_not_is_refused(cluster: Cluster) -> None:
    manifest = job({"model": {**model()["model"], "taks": "CausalLM"}})

    assert refused(cluster, "create", manifest=manifest)[-1].endswith(
        'strict decoding error: unknown field "spec.model.taks"'
    )


def fields(schema: Schema) -> list[tuple[int, str]]:
    """The fields of a schema with their depths, as `kubectl explain --recursive` lists them."""
    found = []
    for name, inner in sorted(schema.get("properties", {}).items()):
        found += [(0, name), *((depth + 1, field) for depth, field in fields(_element(inner)))]
    return found


def _element(schema: Schema) -> Schema:
    inner = schema.get("items") or schema.get("additionalProperties")
    return _element(inner) if inner else schema


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_is_explained(cluster: Cluster, kind: Kind, part: str) -> None:
    schema = resource_schema(kind)["properties"][part]
    explained = cluster.kubectl("explain", f"{kind.plural}.{part}", "--recursive")
    lines = explained.partition("FIELDS:\n")[2].splitlines()
    listed = [line for line in lines if "\t<" in line]

    assert [(_depth(line), line.split("\t")[0].strip()) for line in listed] == fields(schema)
    assert explained.count(schema["description"].split(".")[0]) == 1


def _depth(line: str) -> int:
    return (len(line) - len(line.lstrip())) // 2 - 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_field_keeps_its_sentence(cluster: Cluster, kind: Kind, part: str) -> None:
    told = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3/apis/lmops.dev/v1alpha1"))
    served = told["components"]["schemas"][f"dev.lmops.v1alpha1.{kind.model.__name__}"]["properties"][part]

    assert "" not in sentences(served)
    assert sentences(served) == sentences(resource_schema(kind)["properties"][part])


def sentences(schema: Schema) -> list[str]:
    """What a schema says of its fields, in the order of their names."""
    found = []
    for _, inner in sorted(schema.get("properties", {}).items()):
        found += [inner.get("description", ""), *sentences(_element(inner))]
    return found


def test_a_field_explains_itself_with_the_sentence_of_its_type(cluster: Cluster) -> None:
    sentence = resource_schema(KINDS[0])["properties"]["spec"]["properties"]["suspend"]["description"]

    assert sentence in " ".join(cluster.kubectl("explain", "tj.spec.suspend").split())


def test_a_status_is_kept_to_its_last_field(cluster: Cluster, namespace: str) -> None:
    world = World(trainingjob())
    world.complete("prepare", "train", "evaluate")
    status = world.job.status.manifest()
    cluster.apply(job({}), namespace=namespace)

    patch = ("patch", "trainingjob", "reviews", "-n", namespace, "--subresource=status", "--type=merge", "-p")
    cluster.kubectl(*patch, json.dumps({"status": status}))

    assert cluster.get("trainingjob", "reviews", namespace)["status"] == status
