"""Volumes on a laptop: a claim is a folder, chosen with `--volume claim=folder` or made under `$LMOPS_HOME/volumes`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lmops.local.home import Home, Lock, read_json, write_json

SCHEME = "pvc://"


class VolumeError(Exception):
    """A claim that has no folder: a sentence for the user."""


class Volumes:
    """The folders of all claims, remembered from one command to the next."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.file = home.root / "volumes.json"

    def folder(self, claim: str) -> Path:
        """The folder of a claim, whether it is there or not."""
        chosen = (read_json(self.file) or {}).get(claim)
        return Path(chosen) if chosen else self.home.root / "volumes" / claim

    def remember(self, mappings: Iterable[str]) -> None:
        """Takes `claim=folder` mappings in; all are checked before one is kept."""
        chosen = dict(_mapping(text) for text in mappings)
        if not chosen:
            return
        with Lock(self.home.root / "volumes.lock").held():
            write_json(self.file, {**(read_json(self.file) or {}), **chosen})

    def provide(self, claim: str) -> str | None:
        """Sees to it that a claim has a folder; a sentence where one was made."""
        folder = self.folder(claim)
        if folder.is_dir():
            return None
        if claim in (read_json(self.file) or {}):
            raise VolumeError(
                f"volume {claim}: its folder {folder} is gone; bring it back, or say --volume {claim}=FOLDER"
            )
        folder.mkdir(parents=True)
        return f"volume {claim} is new and empty: {folder} (another folder: --volume {claim}=FOLDER)"

    def path(self, uri: str) -> Path:
        """Where a `pvc://claim/folder` lies on this laptop."""
        claim, _, inside = uri.removeprefix(SCHEME).partition("/")
        return self.folder(claim) / inside


def _mapping(text: str) -> tuple[str, str]:
    claim, equals, folder = text.partition("=")
    if not (claim and equals and folder):
        raise VolumeError(f"--volume {text}: write it as claim=folder, as in --volume data=./data")
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise VolumeError(f"--volume {text}: there is no folder {path}; make it, or correct the path")
    return claim, str(path)
