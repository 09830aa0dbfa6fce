"""What goes wrong between the operator and the API server, said as values: which requests it hits, and how."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

Words = frozenset[str]


class Request(NamedTuple):
    """What is asked of the server, by its number in the order of asking."""

    number: int
    verb: str
    """`get`, `list`, `watch`, `create`, `replace`, `patch`, `apply` or `delete`."""
    kind: str
    namespace: str = ""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, with all requests or with some."""

    does: Literal["answer", "reset", "lose", "crash", "crash after", "delay", "spoil"]
    """Answers `status`; resets the connection before or after acting; ends the client before or after; waits; or spoils
    a watch."""
    status: int = 0
    reason: str = "InternalError"
    retry_after: int = 0
    seconds: float = 0.0
    stream: Literal["", "error", "gone", "truncated", "silent", "closed", "dropped"] = ""
    """What a watch does in place of its next event: ERROR 500 or 410, half a line, nothing any more, an end, or it
    skips the event."""

    at: frozenset[int] = frozenset()
    """The numbers of the requests that are hit; none is all of them."""
    verbs: Words = frozenset()
    kinds: Words = frozenset()
    namespaces: Words = frozenset()
    chance: float = 1.0
    times: int | None = None
    """How often it strikes at the most."""

    def concerns(self, request: Request) -> bool:
        """Whether it may hit a request."""
        return (
            (not self.at or request.number in self.at)
            and (not self.verbs or request.verb in self.verbs)
            and (not self.kinds or request.kind in self.kinds)
            and (not self.namespaces or request.namespace in self.namespaces)
        )


class Faults:
    """All that may go wrong, with dice of their own."""

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        self.faults, self.dice = faults, random.Random(seed)
        self.struck = Counter[Fault]()

    def hit(self, request: Request, *does: str) -> Fault | None:
        """What goes wrong with this request, of the sorts that are named."""
        for fault in self.faults:
            spent = fault.times is not None and self.struck[fault] >= fault.times
            if fault.does in does and fault.concerns(request) and not spent and self.dice.random() < fault.chance:
                self.struck[fault] += 1
                return fault
        return None


NONE = Faults()


def crash(at: int, when: str) -> Faults:
    """The client ends before its n-th request is sent, or after it was carried out."""
    return Faults(Fault("crash" if when == "before" else "crash after", at=frozenset({at})))


def lose_reply(at: int) -> Faults:
    """The n-th request is carried out, and its answer never comes."""
    return Faults(Fault("lose", at=frozenset({at})))


def weather(rate: float, seed: int) -> Faults:
    """Each kind of trouble that a busy API server makes, in this share of all requests."""
    each = rate / 6
    return Faults(
        Fault("answer", 409, "Conflict", chance=each, verbs=frozenset({"patch", "replace"})),
        Fault("answer", 429, "TooManyRequests", retry_after=1, chance=each),
        Fault("answer", 500, chance=each),
        Fault("answer", 503, "ServiceUnavailable", chance=each),
        Fault("reset", chance=each),
        Fault("lose", chance=each),
        seed=seed,
    )
