"""The commands of `lmops local`: thin, so that all words and rules stand where they belong."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmops.documents import AdmissionError, read
from lmops.local import tables
from lmops.local.admission import Admitted, admit, secret_data
from lmops.local.detached import detach
from lmops.local.display import Screen
from lmops.local.home import Folder, Home, LeavingError
from lmops.local.idle import seen
from lmops.local.kinds import KINDS
from lmops.local.logs import print_logs
from lmops.local.targets import chosen, is_here, missing, named, one, refuse, trained
from lmops.local.volumes import SCHEME, VolumeError, Volumes
from lmops.local.waiting import awaited, complaint, good_end, seconds
from lmops.parts import claims
from lmops.plan import Manifest

KEPT = (
    "Resources, their logs, Secrets and volumes are kept in ~/.lmops, or in the folder that the environment variable"
    " LMOPS_HOME names; `apply --volume claim=folder` has a single volume elsewhere."
)

app = typer.Typer(no_args_is_help=True, help="Run the same YAML on this machine, without a cluster.", epilog=KEPT)

Files = Annotated[
    list[str], typer.Option("-f", "--filename", help="A file or a folder of files; - is the standard input.")
]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="The namespace.")]
Output = Annotated[str, typer.Option("-o", "--output", help="yaml, json or wide.")]
Target = Annotated[str, typer.Argument(metavar="KIND/NAME", help="As trainingjob/reviews, tj/reviews or reviews.")]


@app.command()
def apply(
    filename: Files,
    volume: Annotated[list[str] | None, typer.Option(help="claim=folder: where a volume lies; remembered.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="path=value: replaces a field; null removes it.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Stay until the end, or leave it running.")] = True,
    cpu: Annotated[bool, typer.Option("--cpu", help="Run on the processor what asks for accelerators.")] = False,
    namespace: Namespace = "default",
    output: Output = "",
) -> None:
    """Run what the files describe, and stay until it ends. Ctrl-C keeps the checkpoint; apply again goes on."""
    home, console = Home.found(), Console(stderr=bool(output), highlight=False)
    try:
        admitted = admit(read(filename), home, set_ or [], namespace)
        _provide(admitted, home, volume or [], console)
        folders = [_taken_in(home, manifest, cpu, console) for manifest in admitted.resources]
    except (AdmissionError, VolumeError, LeavingError) as error:
        refuse(str(error))
    if wait:
        code = _work(home, folders, console, f"lmops local apply {_again(filename, namespace, set_ or [], cpu)}")
    else:
        code = _detached(folders, console)
    if output:
        _print(_shown(folders, output), output)
    raise typer.Exit(code)


@app.command()
def get(
    target: Annotated[str, typer.Argument(metavar="[KIND[/NAME]]")] = "",
    output: Output = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Print again whenever something changes.")] = False,
    namespace: Namespace = "default",
) -> None:
    """Show resources, as `kubectl get` does."""
    shown = None
    while True:
        resources = _shown(chosen(Home.found(), target, namespace), output)
        if resources != shown:
            _print(resources, output)
        if not watch:
            return
        shown = resources
        time.sleep(1)


@app.command()
def describe(target: Target, namespace: Namespace = "default") -> None:
    """Tell the story of a resource: conditions, runs, events, and how it ended."""
    home = Home.found()
    folder = one(home, target, namespace)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for part in tables.described(folder, folder.resource() or {}, Volumes(home), tables.now()):
        console.print(part)


@app.command()
def wait(
    target: Target,
    condition: Annotated[str, typer.Option("--for", help="The condition. Default: Complete; of a service Ready.")] = "",
    timeout: Annotated[str, typer.Option(help="How long: seconds, or as 90s, 5m, 1h30m.")] = "1h",
    namespace: Namespace = "default",
) -> None:
    """Wait until a condition of a resource holds, as `kubectl wait` does."""
    folder = one(Home.found(), target, namespace)
    wanted = condition.removeprefix("condition=") or good_end(folder.kind)
    try:
        patience = seconds(timeout)
    except ValueError as error:
        refuse(f"--timeout {error}")
    if why := awaited(folder, wanted, patience):
        refuse(why)
    url = folder.status().get("url")
    typer.echo(f"{folder} is {wanted} at {url}" if url else f"{folder} is {wanted}")


@app.command()
def logs(
    target: Target,
    stage: Annotated[str, typer.Option(help="Only this stage, as train.")] = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the resource ends.")] = False,
    namespace: Namespace = "default",
) -> None:
    """Print what the pods of a resource said: of each stage the last attempt."""
    folder = one(Home.found(), target, namespace)
    if not print_logs(folder, stage, follow, sys.stdout):
        what, idle = f"logs of stage {stage}" if stage else "logs", "" if folder.alive else ", and no engine is at work"
        refuse(f"{folder} has no {what} yet{idle}; `lmops local describe {folder}` says why")


@app.command()
def delete(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[KIND/NAME]...")] = None,
    filename: Annotated[
        list[str] | None, typer.Option("-f", "--filename", help="Delete what these files name.")
    ] = None,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="Say nothing where there is nothing to delete.")
    ] = False,
    namespace: Namespace = "default",
) -> None:
    """Stop resources in order and forget them. Models, checkpoints and data stay on their volumes."""
    home, wanted = Home.found(), targets or []
    there = [target for target in wanted if is_here(home, target, namespace)]
    gone = [] if ignore_not_found else [target for target in wanted if target not in there]
    for target in gone:
        typer.echo(missing(home, target, namespace), err=True)
    folders = [one(home, target, namespace) for target in there]
    folders += named(home, filename or [], namespace) if filename or not wanted else []
    if not folders and (wanted or ignore_not_found):
        raise typer.Exit(int(bool(gone)))
    if not folders:
        refuse(f"nothing that {', '.join(filename or [])} names is here, so there is nothing to delete")
    for folder in folders:
        folder.ask_deletion(tables.now())
    words = " ".join(map(str, folders)) if wanted else _again(filename or [], namespace)
    console, again = Console(highlight=False), f"lmops local delete {words}"
    with Screen(console) as screen:
        for folder in folders:
            screen.skip(str(folder), folder.status(), KINDS[folder.kind].story)
        code = _session(home, folders, screen, again)
    raise typer.Exit(code or int(bool(gone)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def predict(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, a pvc:// or hf:// URI, or KIND/NAME of a job.")],
    file: Annotated[str, typer.Argument(help="The texts: jsonl, csv, parquet or plain lines.")],
    out: Annotated[str, typer.Option("-o", "--out", help="Where the predictions go; default: the screen.")] = "",
    volume: Annotated[list[str] | None, typer.Option(help="claim=folder: where a volume lies; remembered.")] = None,
    namespace: Namespace = "default",
) -> None:
    """Stream a file of any size through a model. Further options, as --text COLUMN, are the trainer's own."""
    if importlib.util.find_spec("lmops_trainer") is None:
        refuse("predict needs the trainer; install lmops[trainer]")
    home = Home.found()
    volumes = Volumes(home)
    try:
        volumes.remember(volume or [])
    except VolumeError as error:
        refuse(str(error))
    with tempfile.TemporaryDirectory() as mounts:
        argument = trained(home, model, namespace)
        _mount(volumes, [argument, file, out], Path(mounts))
        command = [sys.executable, "-m", "lmops_trainer", "predict", argument, file, *(["-o", out] if out else [])]
        command += context.args
        done = subprocess.run(command, env={**os.environ, "LMOPS_VOLUMES": mounts}, check=False)
    raise typer.Exit(done.returncode)


@app.command(hidden=True)
def supervise(names: list[str]) -> None:
    """Work on resources without a terminal, for `apply --detach`."""
    home = Home.found()
    folders = [home.folder(*name.split("/")) for name in names]
    raise typer.Exit(_work(home, folders, Console(highlight=False, force_terminal=False), "lmops local apply"))


def _provide(admitted: Admitted, home: Home, mappings: list[str], console: Console) -> None:
    """Volumes and Secrets first: what is missing is said before anything starts."""
    volumes = Volumes(home)
    volumes.remember(mappings)
    named = [
        claim
        for manifest in admitted.resources
        for claim in claims(KINDS[manifest["kind"]].crd.model.model_validate(manifest))
    ]
    named += [other["metadata"]["name"] for other in admitted.others if other["kind"] == "PersistentVolumeClaim"]
    for claim in dict.fromkeys(named):
        if made := volumes.provide(claim):
            console.print(made, markup=False, soft_wrap=True)
    for other in admitted.others:
        if other["kind"] == "Secret":
            space = other["metadata"].get("namespace", "default")
            home.keep_secret(space, other["metadata"]["name"], secret_data(other))


def _mount(volumes: Volumes, places: list[str], mounts: Path) -> None:
    """Links the volumes of these URIs, as a pod has them mounted."""
    uris = [place.removeprefix(SCHEME) for place in places if place.startswith(SCHEME)]
    for claim in {uri.partition("/")[0] for uri in uris} - {"", ".", ".."}:
        (mounts / claim).symlink_to(volumes.folder(claim))


def _taken_in(home: Home, manifest: dict[str, object], cpu: bool, console: Console) -> Folder:
    metadata: dict[str, str] = manifest["metadata"]  # type: ignore[assignment]
    folder = home.folder(metadata["namespace"], str(manifest["kind"]), metadata["name"])
    word = folder.apply(manifest, tables.now(), cpu)
    over = KINDS[folder.kind].story.is_over(folder.status())
    hint = f"; it has ended, to run it again: lmops local delete {folder}" if over and word == "unchanged" else ""
    console.print(f"{folder} {word}{hint}", markup=False, soft_wrap=True)
    return folder


def _work(home: Home, folders: list[Folder], console: Console, again: str) -> int:
    with Screen(console) as screen:
        return _session(home, folders, screen, again)


def _session(home: Home, folders: list[Folder], screen: Screen, again: str) -> int:
    from lmops.local.session import Session  # a web server is not loaded to print a table

    return asyncio.run(Session(home, folders, screen, again).run())


def _detached(folders: list[Folder], console: Console, patience: float = 30.0) -> int:
    """Returns once every supervisor has said what becomes of what was applied: what was said before is not meant."""
    detach(folders)
    until = time.monotonic() + patience
    while time.monotonic() < until and not all(folder.is_told() for folder in folders):
        time.sleep(0.1)
    for folder in folders:
        if not folder.is_told():
            refuse(f"{folder} was not taken up within {patience:g} s; {folder.engine_log} says why")
        console.print(f"{folder} {_became(folder)}", markup=False, soft_wrap=True)
    return int(any(complaint(folder.status()) for folder in folders))


def _became(folder: Folder) -> str:
    """What became of a resource at once: its phase, and why it is refused or how to hear more."""
    status = folder.status()
    if why := complaint(status):
        return f"{status['phase']}: {why}"
    if KINDS[folder.kind].story.is_over(status):
        return f"{status['phase']}; lmops local describe {folder} tells how it ended"
    return f"{status['phase']}; it goes on without this terminal: lmops local get {folder} -w"


def _again(files: list[str], namespace: str, assignments: list[str] | None = None, cpu: bool = False) -> str:
    words = [part for file in files for part in ("-f", file)]
    words += ["-n", namespace] if namespace != "default" else []
    words += [part for assignment in assignments or [] for part in ("--set", assignment)]
    return shlex.join(words + ["--cpu"] * cpu)


def _shown(folders: list[Folder], output: str) -> list[Manifest]:
    """The documents as they are kept, or for a table as they stand."""
    look = Folder.resource if output in ("yaml", "json") else seen
    return [resource for folder in folders if (resource := look(folder))]


def _print(resources: list[dict[str, object]], output: str) -> None:
    if output in ("yaml", "json"):
        typer.echo(tables.as_yaml(resources) if output == "yaml" else tables.as_json(resources))
    elif output not in ("", "wide"):
        refuse(f"-o {output}: write yaml, json or wide")
    elif resources:
        typer.echo(tables.table(resources, tables.now(), wide=output == "wide"))
    else:
        typer.echo("No resources here yet; `lmops local apply -f FILE` starts one.", err=True)
