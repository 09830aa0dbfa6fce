"""Starts the ranks of this node and waits for their ends: under torchrun, or without it where there is but one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmops_trainer.endings import Ranks, Stop, scratch

GRACE = "120"
"""Seconds that ranks get to save a checkpoint after a signal, before they are killed."""
RANK = ["-m", "lmops_trainer", "train"]


class Ended(NamedTuple):
    """How a process ended: its exit code, below 0 the signal."""

    exitcode: int


def started(document: str) -> Mapping[int, Any]:
    """The failures of ranks by their number, none when all have ended well."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    scratch()  # the ranks find it by the environment
    return _one(document) if is_alone(os.environ) else _several(document)


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether there is one rank in all, which nobody would start again in place."""
    single = all(environment.get(name, "1") == "1" for name in ("PET_NNODES", "PET_NPROC_PER_NODE"))
    return single and "PET_RDZV_BACKEND" not in environment and environment.get("PET_MAX_RESTARTS", "0") == "0"


def _one(document: str) -> Mapping[int, Ended]:
    """A single rank meets nobody: without torchrun's agent beside it, it starts sooner and in 300 MB less."""
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "alone"}
    process = subprocess.Popen([sys.executable, "-u", *RANK, document], env=environment, start_new_session=True)
    try:
        code = process.wait()
    except Stop:
        _stop(process)
        raise
    return {0: Ended(code)} if code else {}


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it is on its way
    process.terminate()
    try:
        process.wait(float(os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _several(document: str) -> Mapping[int, Any]:
    """torchrun in this process, so that PET_* variables apply."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    wait_for_others: Any = SimpleElasticAgent._exit_barrier

    def exit_barrier(agent: SimpleElasticAgent) -> None:
        # After an orderly stop the agent that got the signal never comes to the barrier: others would wait 300 seconds.
        if Ranks().stopped() is None:
            wait_for_others(agent)

    SimpleElasticAgent._exit_barrier = exit_barrier  # type: ignore[method-assign]
    _rendezvous()
    try:
        arguments = ["--log-dir", str(scratch() / "torchrun"), *RANK, document]
        torchrun.run(torchrun.parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return dict(error.failures)
    return {}


def _rendezvous() -> None:
    """What torchrun reads, where the pod has not said it."""
    # With the shared store a lost rank recovered in 2 of 6 runs, without it in 5 of 5.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("TORCHELASTIC_ERROR_FILE", str(scratch() / "torchrun-error.json"))
    by_hand = not {"PET_NNODES", "PET_RDZV_ENDPOINT", "PET_RDZV_BACKEND", "PET_MASTER_PORT"} & set(os.environ)
    if by_hand:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(PET_MASTER_ADDR="127.0.0.1", PET_MASTER_PORT=str(free.getsockname()[1]))
