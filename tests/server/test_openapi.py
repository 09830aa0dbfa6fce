"""The OpenAPI document is true: schemathesis asks what it allows and what it does not, and holds answers against it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import clients
from lmops_server.web import app
from served import NAME, Server

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 10
"""Requests that are made up for each route, beside those at the edges of the forms: a few seconds a server, alone."""
TASKS = {
    "classifier": {"/v1/classify", "/v1/embeddings", "/v1/tokenize", "/v1/models/{model}:predict"},
    "writer": {"/v1/completions", "/v1/chat/completions", "/v1/tokenize", "/v1/models/{model}:predict"},
}
"""Routes that each server answers."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_what_the_document_says_is_what_the_server_does(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    server: Server = request.getfixturevalue(kind)
    before = answered(server)

    command = [clients.python(), "-m", "schemathesis.cli", "--config-file", CONFIG, "--no-color"]
    run = ["run", f"{server.url}/openapi.json", "--generation-deterministic", f"--max-examples={EXAMPLES}"]
    how = ["--phases=examples,coverage,fuzzing", "--continue-on-failure", "--request-timeout=60"]
    done = subprocess.run(
        [*command, *run, *how], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    after = answered(server)
    assert {path for path, count in after.items() if count > before.get(path, 0) + 5} >= TASKS[kind]
    with server.client() as http:
        assert 'status="500"' not in http.get("/metrics").text
        assert http.get("/stats").json()["working"] == 0


def answered(server: Server) -> dict[str, float]:
    """How many requests each route has answered with 200."""
    with server.client() as http:
        lines = http.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("lmops_requests_total") and 'status="200"' in line]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in found}


def test_no_route_is_left_out_of_the_document(classifier: Server):
    """What is routed is told in `Allow` of a method that no route takes."""
    with classifier.client() as http:
        paths = http.get("/openapi.json").json()["paths"]
        allowed = {path: http.request("PATCH", path.replace("{model}", NAME)).headers["allow"] for path in paths}

    assert {path: [method.upper() for method in about] for path, about in paths.items()} == {
        path: [method for method in methods.split(", ") if method != "HEAD"] for path, methods in allowed.items()
    }
    assert set(paths) == routed()


def routed() -> set[str]:
    """The paths that the application's source names."""
    source = Path(app.__file__).read_text("utf-8")
    return set(re.findall(r'(?:Route|get|post)\("(/[^"]*)"', source))


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_the_events_of_a_stream_are_those_of_the_document(writer: Server, route: str):
    asked: dict[str, Any] = {"model": NAME, "max_tokens": 8, "n": 2, "seed": 1, "stream": True}
    asked |= {"stream_options": {"include_usage": True}}
    asked |= (
        {"prompt": "The police", "logprobs": 2, "echo": True}
        if route == "completions"
        else {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2}
    )
    with writer.client() as http:
        document = http.get("/openapi.json").json()
        lines = http.post(f"/v1/{route}", json=asked).text.splitlines()

    answer = document["paths"][f"/v1/{route}"]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]
    schema = answer["properties"]["data"]["contentSchema"] | {"components": document["components"]}
    assert len(events) > 8
    for event in events:
        jsonschema.validate(event, schema)
