"""`python -m cluster control-plane`: a cluster to try things on by hand, until Ctrl-C."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from cluster import builds, controlplane, image, kserve, kubeflow, node

app = typer.Typer(no_args_is_help=True, help="A real Kubernetes, compiled from source: it needs Go, and no Docker.")


@app.command()
def build(everything: Annotated[bool, typer.Option("--node", help="What a node needs, too.")] = False) -> None:
    """Compiles what is missing."""
    builds.build(builds.NODE if everything else builds.CONTROL_PLANE)


Serves = Annotated[bool, typer.Option("--kserve", help="With KServe's controller, too.")]


@app.command("control-plane")
def control_plane(serves: Serves = False) -> None:
    """An API server with its controllers and Kubeflow's training-operator. It needs no root and runs no pods."""
    builds.build(builds.CONTROL_PLANE)
    with _folder() as folder, controlplane.running(folder) as plane:
        _start_others(plane, serves)
        _serve(plane)


@app.command("node")
def with_node(serves: Serves = False) -> None:
    """The same with a node, as root on Linux: pods run, and images of this tree are there."""
    node.require()
    builds.build(builds.NODE)
    with _folder() as folder, node.running(folder) as running:
        _start_others(running, serves)
        for name in image.SOURCES:
            running.load(image.build(name, folder))
        _serve(running)


def _start_others(plane: controlplane.ControlPlane, serves: bool) -> None:
    """The controllers of others."""
    kubeflow.start(plane)
    if serves:
        builds.build(("kserve",))
        kserve.start(plane)


@contextmanager
def _folder() -> Iterator[Path]:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be told to end is to clean up, too
    with tempfile.TemporaryDirectory(prefix="lmops-cluster-") as folder:
        yield Path(folder)


def _serve(plane: controlplane.ControlPlane) -> None:
    print(f"export KUBECONFIG={plane.kubeconfig} PATH={builds.program('kubectl').parent}:$PATH")
    print(f"logs are in {plane.folder}/logs; Ctrl-C ends everything", flush=True)
    with suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    app()
