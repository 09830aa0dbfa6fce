"""What all routes share: the model, its limits, its figures, and whether the server is about to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lmops.api import Serving
from lmops.api.languagemodelservice import Limits
from lmops_server.admission import Admission
from lmops_server.drift import Drift
from lmops_server.faults import Fault
from lmops_server.metrics import Metrics
from lmops_server.opened import Opened
from lmops_server.requestlog import Requests
from lmops_server.rowlog import RowLog
from lmops_server.tracing import Traces

if TYPE_CHECKING:
    from lmops_server.texts import Texts
    from lmops_server.writing.writer import Writer


def _version() -> str:
    try:
        return version("lmops")
    except PackageNotFoundError:  # run from its sources
        return "0"


@dataclass
class Service:
    """A model that is served."""

    serving: Serving
    opened: Opened
    metrics: Metrics
    admission: Admission
    requests: Requests
    keys: Callable[[], list[str] | None]
    tokenizer: Any
    """The loop and the threads beside it read with it at once. It has one length for all of them: nobody may set it."""
    texts: Texts | None = None
    """Where it is an encoder."""
    writer: Writer | None = None
    """Where it is a language model."""
    rowlog: RowLog | None = None
    """What is asked and answered, kept to train on."""
    traces: Traces | None = None
    """The spans of requests, where somebody collects them."""
    drift: Drift | None = None
    """The traffic of late, held against the held-out rows."""
    no_drift: str = ""
    """Why it is not, and what to do."""
    draining: bool = False
    """No new requests should come: the process is asked to end."""
    _spelled: dict[int, str] = field(default_factory=dict, repr=False)
    started: int = field(default_factory=lambda: int(time.time()))
    version: str = field(default_factory=_version)

    @property
    def limits(self) -> Limits:
        """What it takes on."""
        return self.serving.spec.limits

    def named(self, name: str, param: str | None = "model") -> None:
        """Refuses the name of another model."""
        if name != self.opened.name:
            raise Fault(
                404, f"There is no model {name!r} here; the model is {self.opened.name!r}.", param, "model_not_found"
            )

    def encoder(self, *tasks: str) -> Texts:
        """The encoder, where the model is made for one of these tasks."""
        if self.texts is None or (tasks and self.opened.task not in tasks):
            raise self.unfit()
        return self.texts

    def writing(self) -> Writer:
        """The language model, where it is one."""
        if self.writer is None:
            raise self.unfit()
        return self.writer

    @property
    def vocabulary(self) -> int:
        """Tokens are numbers below this one."""
        return self.opened.vocabulary or len(self.tokenizer)

    def spelled(self, token: int) -> str:
        """A token by itself, remembered: probabilities name few of them over and over."""
        if (text := self._spelled.get(token)) is None:
            text = self._spelled[token] = str(self.tokenizer.decode([token]))
        return text

    def unfit(self) -> Fault:
        """The model is made for something else."""
        return Fault(
            400,
            f"{self.opened.name!r} is a model for {self.opened.task}: ask it by {ROUTES[self.opened.task]}.",
            code="unsupported",
        )


ROUTES = {
    "SequenceClassification": "/v1/classify",
    "MaskedLM": "/v1/fill-mask",
    "FeatureExtraction": "/v1/embeddings",
    "CausalLM": "/v1/completions or /v1/chat/completions",
}
"""Where each task is asked."""
