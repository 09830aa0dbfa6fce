"""Questions of a gate: they are answered like all others, and are no traffic that tells of users."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

HEADER = "lmops-gate"
"""A request that carries it is one of a gate."""

of_a_gate: ContextVar[bool] = ContextVar("of_a_gate", default=False)
"""Whether what is being answered is asked by a gate: such rows are kept in no log, and are no inputs of late.

Of the metrics only those by route count them: what is promised is promised to users.
"""


def is_of_a_gate(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these headers is."""
    return any(name == HEADER.encode() for name, _ in headers)
