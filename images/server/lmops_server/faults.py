"""What a client did that cannot be answered: a status, and a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping


class Fault(Exception):  # noqa: N818
    """A request that is refused."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        """The field that is wrong."""
        self.code = code
        """A word that programs look for."""
        self.headers = dict(headers or {})


def wrong(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """A request that is refused for what it says."""
    return Fault(400, message, param, code)


def overloaded(waiting: int, most: int, seconds: int) -> Fault:
    """There is no room for more."""
    return Fault(
        429,
        f"The server is full: {waiting} inputs wait or are worked on, and it takes {most}. Try again in {seconds} s.",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )
