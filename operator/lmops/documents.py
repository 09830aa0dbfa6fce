"""YAML files as a user wrote them: each document with the line of every field, and what `--set` changes in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FieldPath = tuple[str | int, ...]
SUFFIXES = (".yaml", ".yml", ".json")


class AdmissionError(Exception):
    """What a user wrote cannot be used: one sentence a problem, and nothing was started."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: 1e-4 is a number and 2024-01-01 is a text, unlike in PyYAML's YAML 1.1."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


@dataclass
class Document:
    """One document of a file."""

    file: str
    value: Any
    node: yaml.Node | None
    overrides: dict[FieldPath, str] = field(default_factory=dict)
    """The `--set` that wrote a field, by its path."""

    def place(self, path: FieldPath) -> str:
        """Where a field stands, as the start of a sentence: `reviews.yaml:9`, or the `--set` that wrote it."""
        for length in range(len(path), 0, -1):
            if (override := self.overrides.get(path[:length])) is not None:
                return f"--set {override}"
        return f"{self.file}:{self.line(path)}"

    def line(self, path: FieldPath) -> int:
        """The line of a field's name; of the nearest field around it where it is not in the file."""
        node, line = self.node, self.node.start_mark.line if self.node else 0
        for step in path:
            found = _inside(node, step)
            if found is None:
                break
            line, node = found
        return line + 1


def read(names: Iterable[str]) -> list[Document]:
    """The documents of files and of folders of files; `-` is the standard input."""
    documents, problems = [], []
    for name, text in _texts(names):
        try:
            documents += _documents(name, text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problems.append(f"{name}{line}: this is not YAML: {getattr(error, 'problem', None) or error}")
    if problems:
        raise AdmissionError(problems)
    return documents


def parse(text: str) -> Any:
    """One YAML value."""
    return yaml.load(text, _Loader)


def override(document: Document, assignments: Iterable[str]) -> None:
    """Carries out `--set path=value`; null removes the field. `spec.` may be left out."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise AdmissionError([f"--set {assignment}: write it as path=value, as in --set training.steps=5"])
        path = _path(name)
        path = path if path[0] in ("spec", "metadata") else ("spec", *path)
        try:
            _put(document.value, path, parse(text))
        except yaml.YAMLError as error:
            raise AdmissionError([f"--set {assignment}: the value is not YAML"]) from error
        except (TypeError, IndexError) as error:
            raise AdmissionError([f"--set {assignment}: there is no such place in {document.file}"]) from error
        document.overrides[path] = assignment


def spelled(path: FieldPath) -> str:
    """A path as people write it: `spec.dataset.train.sources[0].uri`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _texts(names: Iterable[str]) -> list[tuple[str, str]]:
    texts = []
    for name in names:
        path = Path(name)
        if name == "-":
            texts.append(("<stdin>", sys.stdin.read()))
        elif path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
            if not files:
                raise AdmissionError([f"{name}: this folder holds no .yaml file"])
            texts += [(str(file), file.read_text(encoding="utf-8")) for file in files]
        elif path.is_file():
            texts.append((name, path.read_text(encoding="utf-8")))
        else:
            raise AdmissionError([f"{name}: there is no such file or folder"])
    return texts


def _documents(name: str, text: str) -> list[Document]:
    loader = _Loader(text)
    found = []
    while loader.check_node():
        node = loader.get_node()
        value = loader.construct_document(node)
        if value is not None:
            found.append(Document(name, value, node))
    return found


def _inside(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


def _path(name: str) -> FieldPath:
    return tuple(int(number) if number else word for word, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", name)) or (
        "",
    )


def _put(value: dict[str, Any], path: FieldPath, new: Any) -> None:
    *way, last = path
    inner: Any = value
    for step in way:
        if isinstance(inner, dict) and inner.get(step) is None:
            inner[step] = {}
        inner = inner[step]
    if new is None and isinstance(inner, dict):
        inner.pop(last, None)
    else:
        inner[last] = new
