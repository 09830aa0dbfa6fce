"""What every resource is made of: strict camelCase models, CEL rules, Kubernetes metadata and conditions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "lmops.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["lmops.dev/v1alpha1"] = "lmops.dev/v1alpha1"

Rule = tuple[str, str]
"""A CEL expression over `self`, and the sentence a user reads when it does not hold."""


def rules(*pairs: Rule) -> ConfigDict:
    """The class configuration that carries CEL rules into the CRD, where both the API server and the laptop check them."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [{"rule": r, "message": m} for r, m in pairs]})


def exactly_one(*names: str) -> Rule:
    """Of these sibling fields exactly one is set: how a union is written where Kubernetes has none."""
    return _count(names, "exists_one"), f"set exactly one of {_listed(names)}"


def at_most_one(*names: str) -> Rule:
    """Of these sibling fields one is set, or none."""
    return f"{_count(names, 'filter')}.size() <= 1", f"set only one of {_listed(names)}"


def at_least_one(*names: str) -> Rule:
    """Of these sibling fields one is set, or several."""
    return _count(names, "exists"), f"set at least one of {_listed(names)}"


def untouched(path: str, default: Model) -> str:
    """That a section says what it says by default, as it does where nobody has written it; or that it is not there."""
    return " && ".join(_as_it_is(path, default))


def _as_it_is(path: str, default: Model) -> Iterable[str]:
    for name in type(default).model_fields:
        value, field = getattr(default, name), f"{path}.{to_camel(name)}"
        if value is None:
            yield f"!has({field})"
        elif isinstance(value, Model):
            yield from _as_it_is(field, value)
        else:
            yield f"{field}.size() == 0" if value == [] else f"{field} == {json.dumps(value)}"


def _count(names: Iterable[str], macro: str) -> str:
    return f"[{', '.join(f'has(self.{name})' for name in names)}].{macro}(x, x)"


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


class Model(BaseModel):
    """A frozen value whose YAML is camelCase and whose field docstrings are its `kubectl explain` text."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    def manifest(self) -> dict[str, Any]:
        """The value as Kubernetes stores it: camelCase, JSON types, nothing that is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Report(Model):
    """A part of `status`: written by us alone, and read leniently so that an older operator survives a newer status."""

    model_config = ConfigDict(extra="ignore")


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whole_seconds(value: Any) -> Any:
    return value.astimezone(UTC).replace(microsecond=0) if isinstance(value, datetime) else value


def int_or_string(longest: int, **more: Any) -> WithJsonSchema:
    """The schema of what YAML may spell as a number and Kubernetes keeps as either; bounds are those of the text."""
    return WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": longest, **more})


def spelled(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_CORES = r"^[0-9]+(\.[0-9]+)?m?$"
HOST = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)*[a-z]([-a-z0-9]*[a-z0-9])?$"
_PVC = r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/\S*)?"
_URI, _VOLUME_URI = rf"^({_PVC}|hf://[^\s/]+(/\S*)?)$", f"^{_PVC}$"

FORMS = {
    _URI: "a URI: write pvc://claim/folder or hf://owner/name",
    _VOLUME_URI: "a URI on a volume: write pvc://claim/folder",
    _QUANTITY: "a quantity: write a number such as 2, 500m or 4Gi",
    HOST: "the name of a host: write for instance reviews.example.com",
    _CORES: "a number of cores: write for instance 2, 0.5 or 500m",
}
"""What the people who wrote something else are told: a pattern is no sentence."""

Time = Annotated[datetime, BeforeValidator(_whole_seconds), PlainSerializer(_instant, when_used="json")]
Quantity = Annotated[
    str, BeforeValidator(spelled), Field(pattern=_QUANTITY, max_length=32), int_or_string(32, pattern=_QUANTITY)
]
Cores = Annotated[
    str, BeforeValidator(spelled), Field(pattern=_CORES, max_length=32), int_or_string(32, pattern=_CORES)
]
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=36)]
Word = Annotated[str, Field(min_length=1, max_length=128)]


def _cut(longest: int) -> BeforeValidator:
    """What a scheduler or a webhook says has no bound, and a status has: what is too long ends in an ellipsis."""
    return BeforeValidator(
        lambda text: text[: longest - 1] + "…" if isinstance(text, str) and len(text) > longest else text
    )


Cell = Annotated[str, _cut(120), Field(max_length=1024)]
"""What one column of `kubectl get` holds."""
Line = Annotated[str, _cut(1024), Field(max_length=1024)]
Text = Annotated[str, _cut(4096), Field(max_length=4096)]

_INSIDE: dict[str, Any] = {
    "x-kubernetes-validations": [
        {"rule": "!self.contains('/..')", "message": "a URI may not step out of its volume with '..'"}
    ]
}
Uri = Annotated[str, Field(pattern=_URI, max_length=512, json_schema_extra=_INSIDE)]
"""`pvc://claim/folder` on a volume, or `hf://owner/name[@revision]` on the Hugging Face hub."""
VolumeUri = Annotated[str, Field(pattern=_VOLUME_URI, max_length=512, json_schema_extra=_INSIDE)]
"""`pvc://claim/folder`: a place that can be written."""


class ObjectMeta(Model):
    """The part of Kubernetes' metadata that a reconcile reads."""

    model_config = ConfigDict(extra="ignore")

    name: str
    """The resource's name."""
    namespace: str = "default"
    """The namespace it lives in."""
    uid: str = ""
    """What tells it from an earlier resource of the same name."""
    generation: int = 1
    """Counts the changes of its spec."""
    resource_version: str | None = None
    """The version a write is checked against."""
    creation_timestamp: Time | None = None
    """When it was created."""
    deletion_timestamp: Time | None = None
    """When its deletion was asked for."""
    labels: dict[str, str] = {}
    """Its labels."""
    annotations: dict[str, str] = {}
    """Its annotations."""


class Condition(Report):
    """One observation of the resource, in the form of metav1.Condition."""

    type: Word
    """What is observed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Word
    """Why, in one CamelCase word that is stable enough to alert on."""
    message: Text = ""
    """Why, in a sentence that says what to do where something is to be done."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: int
    """The generation of the spec that was observed."""
