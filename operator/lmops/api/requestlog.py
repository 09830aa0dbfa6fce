"""What is asked of a service and answered, kept as rows that a TrainingJob can read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmops.api.base import Model, VolumeUri

Pattern = Annotated[str, Field(min_length=1, max_length=256)]


class RequestLog(Model):
    """A part of the requests, as JSON lines: `text`, `pair`, and by task `label` and `confidence`, or `answer`."""

    uri: VolumeUri
    """The folder that they are written into, as `pvc://logs/reviews`. It is a source for `dataset.train` as it is. Several replicas need a volume that all of them can mount."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the requests that is kept. Those that were refused or failed are not."""
    redact: Annotated[list[Pattern], Field(max_length=16)] = []
    """Regular expressions of Python: what they match becomes `[redacted]`. Mail addresses, phone numbers and card numbers are always replaced."""
    max_bytes: Annotated[int, Field(ge=1_048_576, le=1_099_511_627_776)] = 1_073_741_824
    """About how much the folder holds at the most: the oldest files go first."""
