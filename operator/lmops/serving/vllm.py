"""vLLM (0.32) as the engine of a service: when it is taken, how it is started, and what it does not keep."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lmops.api import Failure, LanguageModelService
from lmops.api.engines import paired
from lmops.api.languagemodelservice import LanguageModelServiceSpec, Limits
from lmops.api.reference import ResolvedModel
from lmops.api.slo import DURATION_BUCKETS
from lmops.jobs.failure import failure
from lmops.parts import VOLUMES
from lmops.plan import Manifest
from lmops.settings import Settings

HEALTH = "/health"
GUARDED = "/v1"
"""The paths for which it asks for a key; `/invocations`, which writes as well, answers without one."""
LEAVE = 5
"""Seconds that it goes on when it is to end: those who route requests need time to notice."""
ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""Nobody is told that it runs. Its caches follow HOME and XDG_CACHE_HOME, which lie on the scratch."""
KEYLESS = "A key is asked for below /v1 alone; /invocations writes without one: a NetworkPolicy keeps strangers out."
UNTOLD = "vLLM tells nothing of its inputs: set engine to Transformers to be told of drift."
WITH_KEYS = """\
for file in {folder}/*; do IFS= read -r key < "$$file" || true; [ -z "$$key" ] || set -- "$$@" "$$key"; done
exec vllm serve "$$@"
"""
"""Each value of the Secret is a key; vLLM reads none from files. They are logged as `***`; with none it ends."""


def serves(service: LanguageModelService, model: ResolvedModel, settings: Settings) -> bool:
    """Whether vLLM serves this model: where it is wanted, or where `Auto` finds that nothing speaks against it."""
    spec = service.spec
    if spec.engine != "Auto":
        return spec.engine == "VLLM"
    if model.format is None or spec.resources.accelerator is None or refusal(service, settings):
        return False
    return spec.model.task in (None, model.task) and paired(model.format, "cuda", "Auto", model.task) == "VLLM"


def refusal(service: LanguageModelService, settings: Settings) -> Failure | None:
    """Why it cannot serve this spec: what it would not keep, though somebody asks for it, is not passed over."""
    if not settings.vllm_image:
        said = "There is no image of vLLM here, as on a laptop, or where the operator's vllmImage is empty."
        return failure("Settings", "EngineMissing", said, remedy="Set engine to Auto or Transformers.")
    if asked := list(_unkept(service.spec)):
        said = f"The engine VLLM does not keep {' and '.join(asked)}."
        remedy = f"Leave {'it' if len(asked) == 1 else 'them'} out, or set engine to Transformers."
        return failure("Settings", "EngineUnfit", said, remedy=remedy)
    return None


def _unkept(spec: LanguageModelServiceSpec) -> Iterator[str]:
    """What is asked for, other than by default, that it has nothing for. A Gateway keeps the time itself."""
    usual = Limits()
    if spec.request_log:
        yield "requestLog"
    if spec.limits.body_bytes != usual.body_bytes:
        yield "limits.bodyBytes"
    if spec.limits.timeout_seconds != usual.timeout_seconds and not (spec.expose and spec.expose.gateway):
        yield "limits.timeoutSeconds"


def differs(service: LanguageModelService) -> str:
    """What of a service is otherwise than with our own server, in sentences."""
    spec = service.spec
    said = [
        "generation.maxNewTokens is also the most that may be asked for, and completions that ask for none get 16.",
        *(["limits.inputTokens bounds an input and its answer together."] if spec.limits.input_tokens else []),
        *([] if spec.expose and spec.expose.gateway else ["Answers may take any time."]),
        "Bodies of any length are read, and a full queue is answered with 503.",
        *([KEYLESS] if spec.api_keys else []),
        "Files are not held against their digest, there is no page, and of KServe's protocols none is spoken.",
    ]
    return " ".join(["vLLM serves it.", *said])


def command(keys: str | None) -> list[str]:
    """What is started; its arguments are those of `vllm serve`. `keys` is the folder with the keys."""
    return ["sh", "-c", WITH_KEYS.format(folder=keys), "vllm"] if keys else ["vllm", "serve"]


def arguments(service: LanguageModelService, model: ResolvedModel, port: int, settings: Settings) -> list[str]:
    """The command line of `vllm serve`, made of the spec."""
    spec, accelerator = service.spec, service.spec.resources.accelerator
    folder, revision = _place(model.uri)
    flags = {
        "revision": revision,
        "port": port,
        "served-model-name": service.metadata.name,
        "tensor-parallel-size": accelerator.per_node if accelerator else 1,
        "max-model-len": spec.limits.input_tokens,
        "max-num-queued-reqs": spec.limits.queue,
        "generation-config": "vllm",  # only the spec says what a request gets, not a file beside the model
        "override-generation-config": json.dumps(_generation(spec)),
        "chat-template": spec.generation.chat_template,
        "custom-histogram-buckets": json.dumps({"request_latency": DURATION_BUCKETS}),
        "disable-access-log-for-endpoints": f"{HEALTH},/metrics",
        "shutdown-timeout": max(0, settings.grace_seconds - 2 * LEAVE),
    }
    told = [f"--{name}={_unexpanded(str(value))}" for name, value in flags.items() if value is not None]
    trusting = ["--trust-remote-code"] if spec.model.trust_remote_code else []
    return [folder, *told, *trusting, *(["--api-key"] if spec.api_keys else [])]  # the keys follow


def container() -> Manifest:
    """How it is asked whether it is well, and that it is told of its end a moment late."""
    return {"lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE)]}}}}


def _generation(spec: LanguageModelServiceSpec) -> Manifest:
    said = spec.generation
    return {
        "max_new_tokens": said.max_new_tokens,
        "temperature": said.temperature,
        "top_p": said.top_p,
        "top_k": said.top_k,
    }


def _place(uri: str) -> tuple[str, str | None]:
    """The folder of a model, or its repository on the hub and the revision."""
    if uri.startswith("pvc://"):
        return f"{VOLUMES}/{uri.removeprefix('pvc://')}", None
    repository, _, revision = uri.removeprefix("hf://").strip("/").partition("@")
    return repository, revision or None


def _unexpanded(text: str) -> str:
    """Kubernetes expands `$(X)` in arguments, and takes `$$` for `$`."""
    return text.replace("$", "$$")
