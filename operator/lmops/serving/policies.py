"""What a service may not ask for, told before anything is written."""

from __future__ import annotations

import re

from lmops.api import Failure, LanguageModelService
from lmops.jobs.failure import failure
from lmops.jobs.policies import fits


def refusal(service: LanguageModelService, document: str) -> Failure | None:
    """The first policy that the service does not meet; `document` is what its server is told."""
    return fits(document) or patterns_are_read(service)


def patterns_are_read(service: LanguageModelService) -> Failure | None:
    """What shall be redacted must be found: a pattern that is none would let all of it through."""
    log = service.spec.request_log
    for place, pattern in enumerate(log.redact if log else ()):
        try:
            re.compile(pattern)
        except re.error as error:
            return failure(
                "Settings",
                "PatternUnreadable",
                f"requestLog.redact[{place}] is no regular expression: {error}.",
                remedy="Correct it, or leave it out.",
            )
    return None
