"""The types of the three kinds: one source for the CRDs, the documents of the runtimes, and the words of the docs."""

from lmops.api.job import Job, JobSpec
from lmops.api.languagemodelservice import LanguageModelService, LanguageModelServiceSpec
from lmops.api.quantizejob import QuantizeJob, QuantizeJobSpec
from lmops.api.run import Compression, Ending, Gate, GateEnding, LastWords, Resolved, Result, Run, RunId, Serving
from lmops.api.servicestatus import LanguageModelServiceStatus
from lmops.api.status import Failure, JobStatus, RunRecord
from lmops.api.trainingjob import TrainingJob, TrainingJobSpec
from lmops.api.trainingstatus import TrainingJobStatus

__all__ = [
    "Compression",
    "Ending",
    "Failure",
    "Gate",
    "GateEnding",
    "Job",
    "JobSpec",
    "JobStatus",
    "LanguageModelService",
    "LanguageModelServiceSpec",
    "LanguageModelServiceStatus",
    "LastWords",
    "QuantizeJob",
    "QuantizeJobSpec",
    "Resolved",
    "Result",
    "Run",
    "RunId",
    "RunRecord",
    "Serving",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
]
