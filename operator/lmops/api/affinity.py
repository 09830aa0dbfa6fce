"""Affinity to nodes and to other pods, in the form of Kubernetes' own, bounded so that rules may read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lmops.api.base import Model, Word

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = Annotated[dict[Word, LabelValue], Field(max_length=32)]
Values = Annotated[list[LabelValue], Field(max_length=32)]
Weight = Annotated[int, Field(ge=1, le=100)]


class NodeRequirement(Model):
    """What one label of a node must be."""

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared."""
    values: Values = []
    """With what it is compared."""


class NodeTerm(Model):
    """Requirements that a node meets together."""

    match_expressions: Annotated[list[NodeRequirement], Field(max_length=16)] = []
    """Requirements on the node's labels."""
    match_fields: Annotated[list[NodeRequirement], Field(max_length=16)] = []
    """Requirements on the node's fields, as `metadata.name`."""


class NodeSelector(Model):
    """Terms of which a node meets at least one."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=16)]
    """The terms."""


class PreferredNodes(Model):
    """Nodes that are preferred."""

    weight: Weight
    """By how much."""
    preference: NodeTerm
    """Which ones."""


class NodeAffinity(Model):
    """On which nodes the pods run."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """The only nodes that will do."""
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNodes], Field(max_length=16)] = []
    """Nodes that are preferred."""


class LabelRequirement(Model):
    """What one label of a pod must be."""

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared."""
    values: Values = []
    """With what it is compared."""


class LabelSelector(Model):
    """Pods by their labels."""

    match_labels: Labels = {}
    """Labels with these values."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] = []
    """Requirements on labels."""


class PodTerm(Model):
    """Other pods, and what it means to be near them."""

    label_selector: LabelSelector = LabelSelector()
    """Which pods."""
    topology_key: LabelKey
    """The node label within which two pods are near: `kubernetes.io/hostname` is the same node."""


class PreferredPods(Model):
    """Pods whose nearness is preferred."""

    weight: Weight
    """By how much."""
    pod_affinity_term: PodTerm
    """Which ones."""


class PodAffinity(Model):
    """Near which pods, or away from which."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], Field(max_length=16)] = []
    """What must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPods], Field(max_length=16)] = []
    """What is preferred."""


class Affinity(Model):
    """Where pods run, told by nodes and by other pods."""

    node_affinity: NodeAffinity | None = None
    """On which nodes."""
    pod_affinity: PodAffinity | None = None
    """Near which pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Away from which pods."""
