"""Small published models of every kind that is served, and a server process with one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from datasets import Dataset as Table
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

import compressed
import tuned
from lmops.api import Serving
from lmops.api.compression import Quantize
from lmops_compressor import methods
from lmops_compressor.export import export
from lmops_compressor.source import Source
from lmops_trainer import drift
from lmops_trainer.publish import fingerprint, publish
from lmops_trainer.scoring import classified
from volumes import raw

LEARNED, HELD_OUT = 640, 600
"""Reviews that the classifier has learned from, and the next ones."""
NAME = "served"
"""The service, and so the model's name in requests."""


@dataclass(frozen=True)
class Volumes:
    """A folder of volumes with the claim `models`."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    def publish(
        self,
        name: str,
        folder: Path,
        task: str,
        labels: list[str] | None = None,
        beside: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """Publishes what lies in a folder, as a job does; returns its URI."""
        model = fingerprint(folder)
        passport = {"kind": "Passport", "digest": model.digest, "task": task, "labels": labels or []}
        about = passport | {"files": dict(model.files)} | more
        home = publish(model, self.models / name, "test", about, beside or {})
        return f"pvc://models/{name}/{home.name}"


def classifier(volumes: Volumes, scratch: Path) -> str:
    """A BERT of two layers that has learned to tell good films from bad ones."""
    source = tuned.classifier(_made(scratch / "classifier"))
    _with_labels(source.folder, source.labels)
    return volumes.publish("reviews", source.folder, source.task, source.labels, maxLength=48)


def pictured(volumes: Volumes, scratch: Path) -> str:
    """The same with the picture of its held-out rows, drawn as evaluation draws it."""
    source = tuned.classifier(_made(scratch / "pictured"))
    _with_labels(source.folder, source.labels)
    rows = tuned.reviews(source, HELD_OUT, skip=LEARNED)
    examples = Table.from_list(list(rows.examples))
    table = pa.table({"row": examples["row"], "label": [source.labels[number] for number in examples["label"]]})
    scored = classified(
        source.model(), source.tokenizer(), examples, table, source.labels, rows.collator, lambda _: None
    )
    assert scored.seen
    assert scored.told
    found = drift.baseline(scored.seen, "test", HELD_OUT, source.labels, scored.told.labels, scored.told.probabilities)
    return volumes.publish(
        "pictured", source.folder, source.task, source.labels, {drift.NAME: found.written()}, maxLength=48
    )


def held_out() -> list[str]:
    """The texts of the same rows."""
    return tuned.texts(HELD_OUT, skip=LEARNED)


def quantized(volumes: Volumes, scratch: Path, classifier: str) -> str:
    """The same as int8 for ONNX Runtime."""
    folder = volumes.root / classifier.removeprefix("pvc://")
    source = Source(classifier, folder, "SequenceClassification", ["negative", "positive"], 48, {})
    target = _made(scratch / "quantized")
    how = Quantize.model_validate({"method": "Dynamic"})
    methods.quantizer("Dynamic").quantize(compressed.subject(source), how, compressed.unread, target, lambda _: None)
    _beside(source, target)
    return volumes.publish("reviews-int8", target, source.task, source.labels, maxLength=48, format="onnx")


def language_model(volumes: Volumes, scratch: Path) -> str:
    """A GPT-2 of two layers that has read the news."""
    source = tuned.language_model(_made(scratch / "gpt2"))
    return volumes.publish("gpt2", source.folder, source.task)


def untrained(volumes: Volumes, scratch: Path, name: str = "new", beside: Mapping[str, str] | None = None) -> str:
    """A GPT-2 that knows nothing, and is there at once: what it writes hangs together with what it has read alone."""
    source = compressed.untrained(_made(scratch / name), n_embd=64, n_layer=2, n_positions=320)
    return volumes.publish(name, source.folder, source.task, beside=beside)


def language_graph(volumes: Volumes, scratch: Path, language_model: str) -> str:
    """The same as a graph with its cache."""
    folder = volumes.root / language_model.removeprefix("pvc://")
    source = Source(language_model, folder, "CausalLM", [], 64, {})
    target = _made(scratch / "gpt2-onnx")
    export(source.model(), "CausalLM", target)
    _beside(source, target)
    return volumes.publish("gpt2-onnx", target, source.task, format="onnx")


def masked(volumes: Volumes, scratch: Path) -> str:
    """A BERT of one layer, untrained, that fills masks with whatever comes."""
    import torch

    folder = _made(scratch / "masked")
    tokenizer = AutoTokenizer.from_pretrained(raw("minilm"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return volumes.publish("masked", folder, "MaskedLM", maxLength=64)


def document(uri: str, digest: str | None = None, task: str | None = None, **spec: Any) -> Serving:
    """The document of a service with this model."""
    model = {"uri": uri} | ({"digest": digest} if digest else {}) | ({"task": task} if task else {})
    service = {"name": NAME, "namespace": "default", "uid": "u-1"}
    return Serving.model_validate({"service": service, "spec": spec, "model": model})


@dataclass(frozen=True)
class Server:
    """A running process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)


@contextmanager
def serving(
    volumes: Volumes, serving: Serving, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The server, ready to answer; ended as Kubernetes ends it."""
    started = start(volumes, serving, folder, environment)
    try:
        await_ready(started)
        yield started
    finally:
        stop(started)


def stop(server: Server) -> None:
    """Ends it as Kubernetes does, if it has not ended."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)


def start(volumes: Volumes, serving: Serving, folder: Path, environment: Mapping[str, str] | None = None) -> Server:
    """The process, just begun."""
    port, log = free_port(), folder / "server.log"
    settings = {"LMOPS_VOLUMES": str(volumes.root), "LMOPS_PORT": str(port), "LMOPS_SCRATCH": str(folder)}
    settings |= {"LMOPS_TERMINATION_LOG": str(folder / "termination"), "LMOPS_DRAIN_SECONDS": "0"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lmops_server", "serve", serving.document()],
            env={**os.environ, "OMP_NUM_THREADS": "1", **settings, **(environment or {})},
            stdout=file,
            stderr=file,
        )
    return Server(f"http://127.0.0.1:{port}", process, log)


def await_ready(server: Server, seconds: float = 60) -> None:
    """Waits as a probe does; fails with the log where the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        try:
            if httpx.get(f"{server.url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready after {seconds:g} s:\n{server.log.read_text()[-3000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _beside(source: Source, target: Path) -> None:
    """A graph has the configuration and the tokenizer of its model with it."""
    (target / "config.json").write_bytes((source.folder / "config.json").read_bytes())
    source.tokenizer().save_pretrained(target)


def _with_labels(folder: Path, labels: list[str]) -> None:
    """The names of the classes, where training leaves them."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"id2label": {str(i): name for i, name in enumerate(labels)}}
    file.write_text(json.dumps(config | {"label2id": {name: i for i, name in enumerate(labels)}}))
