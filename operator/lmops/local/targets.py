"""What a user means by KIND/NAME, KIND or NAME."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from lmops.documents import AdmissionError, Document, read
from lmops.local.home import Folder, Home, in_namespace
from lmops.local.kinds import KINDS
from lmops.local.volumes import SCHEME


def chosen(home: Home, target: str, namespace: str) -> list[Folder]:
    """The resources that KIND/NAME, KIND, NAME or nothing stands for."""
    kind, slash, name = target.partition("/")
    if slash:
        found = home.folder(namespace, _kind(kind), name)
        if found.applied() is None:
            refuse(missing(home, target, namespace))
        return [found]
    if not target or _is_kind(target):
        return home.folders(namespace, _kind(target) if target else None)
    named = [folder for folder in home.folders(namespace) if folder.name == target]
    if not named:
        refuse(missing(home, target, namespace))
    return named


def missing(home: Home, target: str, namespace: str) -> str:
    """That KIND/NAME or NAME stands for nothing, in a sentence."""
    kind, slash, name = target.partition("/")
    look = f"`lmops local get{in_namespace(namespace)}` lists what"
    if slash:
        return f"{home.folder(namespace, _kind(kind), name)} is not here; {look} is"
    if _is_kind(target):
        return f"{target}: name one resource, as in trainingjob/reviews"
    return f"there is no resource {target} here; {look} there is"


def is_here(home: Home, target: str, namespace: str) -> bool:
    """Whether KIND/NAME or NAME stands for a resource that there is."""
    kind, _, name = target.rpartition("/")
    folders = home.folders(namespace, _kind(kind) if kind else None)
    return any(folder.name == name for folder in folders)


def one(home: Home, target: str, namespace: str) -> Folder:
    """The one resource that is meant."""
    found = chosen(home, target, namespace)
    if len(found) != 1 or found[0].name != target.rpartition("/")[2]:
        refuse(f"{target}: name one resource, as in trainingjob/reviews")
    return found[0]


def named(home: Home, files: list[str], namespace: str) -> list[Folder]:
    """The resources of these files that are here."""
    if not files:
        refuse("say what to delete: KIND/NAME, or -f FILE")
    try:
        found = [_folder(home, document, namespace) for document in read(files)]
    except AdmissionError as error:
        refuse(str(error))
    return [folder for folder in found if folder and folder.applied()]


def trained(home: Home, model: str, namespace: str) -> str:
    """What the trainer takes for a model: a folder or a URI; a job stands for what it published."""
    if model.startswith((SCHEME, "hf://")) or Path(model).exists():
        return model
    folder = one(home, model, namespace)
    uri = folder.status().get("model", {}).get("uri")
    return str(uri) if uri else refuse(f"{folder} has not published a model yet")


def refuse(sentence: str) -> NoReturn:
    """Ends the command with a sentence."""
    typer.echo(sentence, err=True)
    raise typer.Exit(1)


def _folder(home: Home, document: Document, namespace: str) -> Folder | None:
    """What a document names; `None` where it is of a kind that is not kept here."""
    value = document.value if isinstance(document.value, dict) else {}
    metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
    kind, name = value.get("kind"), (metadata or {}).get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        refuse(f"{document.place(())}: this is not a Kubernetes resource: it has no kind and metadata.name")
    space = str((metadata or {}).get("namespace", namespace))
    return home.folder(space, kind, name) if kind in KINDS else None


def _is_kind(word: str) -> bool:
    return word.lower() in _words()


def _kind(word: str) -> str:
    if not _is_kind(word):
        refuse(f"{word} is no kind; there are {', '.join(name.lower() for name in KINDS)}")
    return _words()[word.lower()]


def _words() -> dict[str, str]:
    return {word: name for name, row in KINDS.items() for word in (name.lower(), row.crd.plural, row.crd.short)}
