"""`lmops operator`: the operator on a cluster."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from lmops.documents import AdmissionError
from lmops.settings import Settings, read

app = typer.Typer(no_args_is_help=True, help="The operator: it reconciles the resources of a cluster.")


class JsonLines(logging.Formatter):
    """A JSON object a line, for a log that machines read; `extra={"resource": …}` is fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "resource", {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


@app.callback()
def operator() -> None:
    """The operator: it reconciles the resources of a cluster."""


@app.command()
def run(
    settings: Annotated[str, typer.Option(metavar="FILE", help="A YAML file of settings; what is typed wins.")] = "",
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch this namespace only; several are possible.")
    ] = None,
    trainer_image: Annotated[str, typer.Option(help="The image of prepare, train and evaluate.")] = "",
    lease_namespace: Annotated[str, typer.Option(help="Where the leader's Lease lies. Default: the pod's own.")] = "",
    resync: Annotated[float | None, typer.Option(help="Seconds between two full lists.", min=1)] = None,
    port: Annotated[int | None, typer.Option(help="Where /healthz, /readyz and /metrics are.")] = None,
    progress_port: Annotated[int | None, typer.Option(help="Where the pods of jobs post their progress.")] = None,
    json_log: Annotated[bool, typer.Option("--json", help="Log JSON lines.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what Kopf does, too.")] = False,
) -> None:
    """Reconciles until SIGTERM. The cluster is the pod's own, or the one that KUBECONFIG names."""
    try:
        import uvloop

        from lmops import service
    except ModuleNotFoundError as missing:
        print(f"lmops: {missing.name} is not installed: pip install 'lmops[operator]'", file=sys.stderr)
        raise typer.Exit(1) from None
    from lmops.cluster import NowhereError
    from lmops.leader import LostError

    _log(json_log, verbose)
    chosen = _read(settings)
    typed = {
        "namespaces": tuple(namespace or ()),
        "trainer_image": trainer_image,
        "namespace": lease_namespace or chosen.namespace or service.own_namespace(),
        "resync_seconds": resync,
        "port": port,
        "progress_port": progress_port,
    }
    chosen = chosen.model_copy(update={name: value for name, value in typed.items() if value not in (None, "", ())})
    try:
        uvloop.run(service.run(chosen))
    except* LostError as lost:
        print(f"lmops: {lost.exceptions[0]}: this replica ends", file=sys.stderr)
        raise typer.Exit(1) from None
    except* NowhereError as nowhere:
        print(f"lmops: {nowhere.exceptions[0]}", file=sys.stderr)
        raise typer.Exit(1) from None
    except* OSError as error:
        print(f"lmops: {error.exceptions[0]}: choose another with --port or --progress-port", file=sys.stderr)
        raise typer.Exit(1) from None


def _read(file: str) -> Settings:
    try:
        return read(file) if file else Settings()
    except AdmissionError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def _log(as_json: bool, verbose: bool) -> None:
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("lmops").setLevel(logging.DEBUG if verbose else logging.INFO)
