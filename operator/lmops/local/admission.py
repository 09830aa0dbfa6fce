"""What a laptop refuses, and in which words: the same as an API server would, with the line of the file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from lmops.api.base import API_VERSION
from lmops.api.crd import Schema, resource_schema
from lmops.documents import AdmissionError, Document, override
from lmops.local.home import Home, in_namespace
from lmops.local.kinds import KINDS, Kind
from lmops.local.schema import broken_rules, defaulted, without_nulls
from lmops.plan import Manifest
from lmops.words import Problem, camel, hint, sentence, shown, stray, unknown, wrong

PLAIN = {"Secret": "v1", "PersistentVolumeClaim": "v1", "Namespace": "v1"}
"""Other kinds that may stand in the files: Secrets are kept, claims become folders, namespaces need nothing."""
METADATA = ("name", "namespace", "labels", "annotations", "finalizers", "ownerReferences")


@dataclass(frozen=True)
class Admitted:
    """What the files hold, found good."""

    resources: tuple[Manifest, ...]
    others: tuple[Manifest, ...]


def admit(documents: list[Document], home: Home, assignments: list[str], namespace: str = "default") -> Admitted:
    """Checks all documents, and refuses them together with everything that is wrong in any."""
    resources, others, sentences = [], [], []
    for document in documents:
        problems = list(_form(document))
        if not problems and document.value["kind"] in PLAIN:
            others.append(_spaced(document.value, namespace))
            continue
        if not problems:
            override(document, assignments)
            kind = KINDS[document.value["kind"]]
            document.value = without_nulls(document.value)
            resources.append(_stored(document.value, kind, namespace))
            problems = _problems(document.value, kind, _old(home, resources[-1]))
        located = sorted(problems, key=lambda problem: document.line(problem.path))
        sentences += [sentence(document, problem) for problem in located]
    sentences += _twice(resources)
    if not documents:
        sentences = ["There is nothing in these files to apply."]
    if sentences:
        raise AdmissionError(list(dict.fromkeys(sentences)))
    return Admitted(tuple(resources), tuple(others))


def secret_data(manifest: Manifest) -> dict[str, str]:
    """What a Secret holds, decoded."""
    encoded = {key: base64.b64decode(value).decode() for key, value in (manifest.get("data") or {}).items()}
    return encoded | {key: str(value) for key, value in (manifest.get("stringData") or {}).items()}


def _form(document: Document) -> Iterator[Problem]:
    """Whether the document is a resource of a kind that we know."""
    value = document.value
    if not isinstance(value, dict):
        yield Problem((), "this is not a Kubernetes resource: it has no apiVersion, kind and metadata")
        return
    known = dict.fromkeys(KINDS, API_VERSION) | PLAIN
    kind, version = value.get("kind"), value.get("apiVersion")
    if kind is None:
        yield Problem(("kind",), f"must be set: {_or(list(KINDS))}")
    elif kind not in known:
        help_ = hint(str(kind), list(known)) or f"; known: {', '.join(known)}"
        yield Problem(("kind",), f"{shown(kind)} is not known here{help_}")
    elif version != known[kind]:
        said = "must be set" if version is None else f"{shown(version)} is not known here"
        yield Problem(("apiVersion",), f"{said}; write {known[kind]}")
    for part in ("metadata", "spec") if kind in KINDS else ("metadata",):
        if not isinstance(value.get(part), dict):
            said = "must be set" if value.get(part) is None else f"{shown(value[part])} is not a mapping of fields"
            yield Problem((part,), said)


def _stored(value: Manifest, kind: Kind, namespace: str) -> Manifest:
    """The resource with its defaults filled in, as it is kept."""
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    kept = {key: inner for key, inner in {"namespace": namespace, **(metadata or {})}.items() if key in METADATA}
    spec = defaulted(value.get("spec", {}), resource_schema(kind.crd)["properties"]["spec"])
    return {"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": kept, "spec": spec}


def _spaced(value: Manifest, namespace: str) -> Manifest:
    return {**value, "metadata": {"namespace": namespace, **value["metadata"]}}


def _old(home: Home, manifest: Manifest) -> Any:
    metadata = manifest["metadata"]
    applied = home.folder(str(metadata["namespace"]), manifest["kind"], str(metadata.get("name"))).applied()
    return applied and applied["spec"]


def _problems(value: Manifest, kind: Kind, old: Any) -> list[Problem]:
    schema = resource_schema(kind.crd)
    strange = list(unknown({k: v for k, v in value.items() if k not in ("metadata", "status")}, schema))
    strange += [(("metadata", k), list(METADATA)) for k in value.get("metadata") or {} if k not in METADATA]
    close = {path: get_close_matches(camel(str(path[-1])), names, n=1) for path, names in strange}
    meant = {(*path[:-1], *match) for path, match in close.items()}
    others = [problem for problem in _wrong(value, kind, schema) if problem.path not in meant]
    ruled = broken_rules(
        defaulted(value.get("spec", {}), schema["properties"]["spec"]), schema["properties"]["spec"], old
    )
    told = {problem.path for problem in others}
    return [
        *(stray(path, names) for path, names in strange),
        *others,
        *(Problem(("spec", *path), message) for path, message in ruled if ("spec", *path) not in told),
    ]


def _wrong(value: Manifest, kind: Kind, schema: Schema) -> Iterator[Problem]:
    """Fields whose value is missing, of a wrong type, or out of bounds."""
    name = (value.get("metadata") or {}).get("name")
    rule = schema["properties"]["metadata"]["properties"]["name"]
    if not isinstance(name, str):
        yield Problem(("metadata", "name"), "must be set" if name is None else f"{shown(name)} is not a text")
    elif not _is_name(name, rule["maxLength"]):
        form = f"at most {rule['maxLength']} small letters, digits and hyphens, the first a letter, the last no hyphen"
        yield Problem(("metadata", "name"), f"{shown(name)} is not a name: {form}")
    body = {key: inner for key, inner in value.items() if key not in ("metadata", "status")}
    try:
        document = json.dumps({**body, "metadata": {"name": "x"}})
        kind.crd.model.model_validate_json(document, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        yield from wrong(error, value, schema)


def _twice(resources: list[Manifest]) -> list[str]:
    spaces = [in_namespace(str(m["metadata"]["namespace"])) for m in resources]
    names = [f"{m['kind'].lower()}/{m['metadata'].get('name')}{s}" for m, s in zip(resources, spaces, strict=True)]
    return [f"{name} stands in these files more than once" for name in dict.fromkeys(names) if names.count(name) > 1]


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _is_name(name: str, longest: int) -> bool:
    plain = name.replace("-", "a")
    ends = name[:1].isalpha() and name[-1:].isalnum()
    return name.isascii() and name == name.lower() and plain.isalnum() and ends and len(name) <= longest
