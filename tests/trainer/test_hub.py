"""What is of the hub: read through the real client from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "a" * 40
FILES = {
    "README.md": b"""---
configs:
- config_name: rte
  data_files: [{split: validation, path: rte/validation.jsonl}]
dataset_info:
- config_name: rte
  features:
  - {name: sentence1, dtype: string}
  - {name: sentence2, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': entailment, '1': not_entailment}}}}
---
""",
    "rte/validation.jsonl": b"""{"sentence1": "a", "sentence2": "b", "label": 1}
{"sentence1": "c", "sentence2": "d", "label": 0}
{"sentence1": "e", "sentence2": "f", "label": -1}
""",
}


REFUSED = {"private": 401, "forbidden": 403, "nothing": 404, "busy": 429, "broken": 503}
"""Models that the hub does not give out, and how it answers for them."""


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that reading one small data set takes, and those of a hub that does not give."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if place.startswith("/api/models/owner/"):
            self._answer(REFUSED[place.split("/")[4]])
        elif not place.startswith(("/api/datasets/owner/pairs", "/datasets/owner/pairs")):
            self._answer(404)
        elif "/resolve/" in place:
            content = FILES.get(place.partition(f"/resolve/{COMMIT}/")[2])
            if content is None:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                self._answer(200, content, {"ETag": f'"{_id(content)}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in place:
            inside = place.partition(f"/tree/{COMMIT}")[2].lstrip("/")
            found = [{"type": "file", "path": f, "size": len(c), "oid": _id(c)} for f, c in FILES.items()]
            self._answer(200, json.dumps([entry for entry in found if entry["path"].startswith(inside)]).encode())
        else:
            files = [{"rfilename": name} for name in FILES]
            self._answer(200, json.dumps({"id": "owner/pairs", "sha": COMMIT, "siblings": files}).encode())

    do_HEAD = do_GET  # noqa: N815 - the server's own name

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def _id(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


CODE = """
import json, sys
from lmops.api.dataset import Source
from lmops_trainer.data.sources import fingerprint, rows
from lmops_trainer.failures import Refusal

found = []
try:
    source = Source.model_validate(json.loads(sys.argv[1]))
    found.append(fingerprint(source, "dataset.train"))
    for row in rows([source], "dataset.train", labelled=True, documents=False):
        found.append([row.text, row.pair, row.label])
except Refusal as refusal:
    found.append([refusal.class_, refusal.reason, refusal.message])
print(json.dumps(found))
"""


def read(endpoint: str, home: Path, source: dict[str, Any], **environment: str) -> Any:
    """What a process reads of a source; the client of the hub takes its settings when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps({"columns": {"text": "sentence1", "pair": "sentence2"}} | source)],
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_hub_data_set_is_read_at_its_commit_with_its_class_names(endpoint, tmp_path):
    found = read(endpoint, tmp_path, {"uri": "hf://owner/pairs", "config": "rte", "split": "validation"})

    assert found == [
        [f"commit:{COMMIT}"],
        ["a", "b", "not_entailment"],
        ["c", "d", "entailment"],
        ["Data", "LabelMissing", "hf://owner/pairs, line 3 has no label."],
    ]


@pytest.mark.parametrize(
    ("source", "environment", "refusal"),
    [
        (
            {"uri": "hf://owner/pairs", "config": "rte", "split": "tset"},
            {},
            [
                "Data",
                "HubDatasetUnusable",
                "The split 'tset' of hf://owner/pairs, configuration 'rte' could not be read: "
                "Unknown split \"tset\". Should be one of ['validation'].",
            ],
        ),
        (
            {"uri": "hf://owner/nothing"},
            {},
            ["Data", "HubRefused", "The hub does not give out hf://owner/nothing (HTTP 404)."],
        ),
        (
            {"uri": "hf://owner/pairs"},
            {"HF_HUB_OFFLINE": "1"},
            ["Data", "HubUnreachable", "hf://owner/pairs could not be fetched from the hub."],
        ),
        (
            {"uri": "hf://owner/pairs"},
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            ["Data", "HubUnreachable", "hf://owner/pairs could not be fetched from the hub."],
        ),
    ],
)
def test_what_the_hub_does_not_give_is_refused(endpoint, tmp_path, source, environment, refusal):
    assert read(endpoint, tmp_path, source, **environment)[-1] == refusal


MODELS = """
import json, sys
from lmops_trainer.failures import Refusal
from lmops_trainer.uris import folder

for uri in sys.argv[1:]:
    try:
        folder(uri, ["*"])
    except Refusal as refusal:
        print(json.dumps([refusal.class_, refusal.reason, refusal.message, refusal.remedy]))
"""
NAME = "Check the name and revision; a private one needs HF_TOKEN in the Secret credentials.secretName."
LATER = "Try again later, or copy the files to a volume."


def test_why_the_hub_gives_no_model_is_told_by_what_it_answers(endpoint, tmp_path):
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    uris = [f"hf://owner/{name}" for name in REFUSED]

    done = subprocess.run(
        [sys.executable, "-c", MODELS, *uris], env=os.environ | settings, capture_output=True, text=True, timeout=120
    )

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["Credentials", "HubRefused", "The hub does not give out hf://owner/private (HTTP 401).", NAME],
        ["Credentials", "HubRefused", "The hub does not give out hf://owner/forbidden (HTTP 403).", NAME],
        ["Model", "HubRefused", "The hub does not give out hf://owner/nothing (HTTP 404).", NAME],
        ["Model", "HubFailed", "The hub answers for hf://owner/busy with an error (HTTP 429).", LATER],
        ["Model", "HubFailed", "The hub answers for hf://owner/broken with an error (HTTP 503).", LATER],
    ], done.stderr
