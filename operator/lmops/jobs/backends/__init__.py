"""What runs an attempt: each backend renders a workload, and reads how it stands."""

from typing import Protocol

from lmops.jobs.backends import job, pytorchjob
from lmops.plan import Manifest


class Reader(Protocol):
    """How a backend reads its workload."""

    def is_held(self, child: Manifest) -> bool:
        """Whether it is suspended."""

    def read(self, child: Manifest) -> Manifest:
        """The condition that ended it, as Succeeded or Failed; `{}` while it goes on."""

    def wanted_pods(self, child: Manifest) -> int:
        """How many pods its controller is to make."""


READERS: dict[str, Reader] = {job.KIND: job, pytorchjob.KIND: pytorchjob}


def is_held(child: Manifest) -> bool:
    """Whether a child is suspended: its queue has not admitted it, or has taken its place back."""
    return READERS[child["kind"]].is_held(child)


def end_of(child: Manifest) -> Manifest:
    """The condition that ended a child; `{}` while it goes on."""
    return READERS[child["kind"]].read(child)


def wanted_pods(child: Manifest) -> int:
    """How many pods a child's controller is to make."""
    return READERS[child["kind"]].wanted_pods(child)
