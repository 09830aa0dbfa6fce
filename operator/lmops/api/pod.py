"""What a user may say of the pods that a resource is run by, whatever its kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.affinity import Affinity, Labels, LabelValue
from lmops.api.base import Model, Word, rules

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]

OURS = ("lmops.dev/", "training.kubeflow.org/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "serving.kserve.io/")
"""Prefixes of labels and annotations that controllers go by."""
RESERVED = ("LMOPS_", "PET_", "TORCHELASTIC_", "KUBEFLOW_TRAINER_", "MASTER_", "RANK", "WORLD_SIZE")
"""Prefixes of variables that the runtime goes by."""


def none_of(field: str, prefixes: tuple[str, ...]) -> str:
    """That no key of a map begins with any of these."""
    tests = " && ".join(f"!k.startsWith('{prefix}')" for prefix in prefixes)
    return f"!has(self.{field}) || self.{field}.all(k, {tests})"


class EnvVar(Model):
    """An environment variable. Secrets do not belong here: everybody who may read the resource reads them."""

    model_config = rules(
        (
            " && ".join(f"!self.name.startsWith('{prefix}')" for prefix in RESERVED),
            f"variables that begin with {', '.join(RESERVED)} are the runtime's own",
        ),
        (
            "!self.name.matches('(?i)(token|secret|password|api_?key|access_?key)$')",
            "put it into a Secret, and name that in credentials.secretName",
        ),
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Its name."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value. `$(NAME)` stands for the value of another variable."""


class Toleration(Model):
    """A taint that the pods bear."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """The taint's key; none is every key, with operator Exists."""
    operator: Literal["Equal", "Exists"] | None = None
    """Whether the value counts. Default: Equal."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; none is every effect."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is borne."""


class PodSettings(Model):
    """Where pods run and what they carry. What is set here goes before the operator's defaults; lists and maps add up."""

    model_config = rules(
        (none_of("labels", OURS), f"labels that begin with {', '.join(OURS)} are set by controllers"),
        (none_of("annotations", OURS), f"annotations that begin with {', '.join(OURS)} are set by controllers"),
    )

    labels: Labels = {}
    """Labels of the pods."""
    annotations: Annotated[dict[Word, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] = {}
    """Annotations of the pods."""
    node_selector: Labels = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that the pods bear."""
    affinity: Affinity | None = None
    """Affinity to nodes and to other pods."""
    service_account_name: DnsName | None = None
    """The ServiceAccount of the pods. No token of it is mounted."""
    image_pull_secrets: Annotated[list[DnsName], Field(max_length=16)] = []
    """Secrets for private image registries."""
    priority_class_name: DnsName | None = None
    """The PriorityClass of the pods."""
    runtime_class_name: DnsName | None = None
    """The RuntimeClass of the pods."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = []
    """Environment variables of the container."""

    def over(self, defaults: PodSettings) -> PodSettings:
        """These settings where they say something, else the defaults; of two variables of one name ours stays."""
        named = {variable.name for variable in self.env}
        return PodSettings(
            labels={**defaults.labels, **self.labels},
            annotations={**defaults.annotations, **self.annotations},
            node_selector={**defaults.node_selector, **self.node_selector},
            tolerations=[*defaults.tolerations, *self.tolerations],
            affinity=self.affinity or defaults.affinity,
            service_account_name=self.service_account_name or defaults.service_account_name,
            image_pull_secrets=list(dict.fromkeys([*defaults.image_pull_secrets, *self.image_pull_secrets])),
            priority_class_name=self.priority_class_name or defaults.priority_class_name,
            runtime_class_name=self.runtime_class_name or defaults.runtime_class_name,
            env=[*(variable for variable in defaults.env if variable.name not in named), *self.env],
        )
