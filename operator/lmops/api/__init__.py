"""The types of the three kinds: one source for the CRDs, the documents of the runtimes, and the words of the docs."""

from lmops.api.run import Ending, Resolved, Result, Run, RunId
from lmops.api.status import Failure, RunRecord, TrainingJobStatus
from lmops.api.trainingjob import TrainingJob, TrainingJobSpec

__all__ = [
    "Ending",
    "Failure",
    "Resolved",
    "Result",
    "Run",
    "RunId",
    "RunRecord",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
]
