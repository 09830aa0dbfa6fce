"""The clients of KServe and of LangChain find what they expect, in the versions that people install."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import clients
from served import NAME, Server

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
TEXTS = ("a wonderful, moving film", "dull – it was a long and empty evening")


def test_kserve_s_client_is_answered_by_both_protocols(classifier: Server):
    with classifier.client() as http:
        known = http.post("/v1/classify", json={"input": list(TEXTS)}).json()["data"]
    labels, confidences = [one["label"] for one in known], [one["confidence"] for one in known]

    told = clients.run(HERE / "by_kserve.py", classifier.url, NAME, *TEXTS)

    assert (told["live"], told["ready"], told["modelReady"]) == ([True, True], True, [True, True])
    assert told["otherReady"] is False
    assert [one["label"] for one in told["v1"]] == labels
    for how in ("json", "binary"):
        assert (told[how]["id"], told[how]["model"], told[how]["label"]) == ("7", NAME, labels)
        assert told[how]["confidence"] == pytest.approx(confidences, abs=1e-5)
    assert told["wrong"].startswith("instances.0: input should be a valid string., '400 Bad Request' for url")


def test_langchain_chats_writes_streams_and_embeds(writer: Server, classifier: Server):
    asked = {"model": NAME, "prompt": "The police said", "temperature": 0, "max_tokens": 12}
    with writer.client() as http:
        text = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    with classifier.client() as http:
        vectors = http.post("/v1/embeddings", json={"model": NAME, "input": ["a fine film", "a dull film"]}).json()

    told = clients.run(HERE / "by_langchain.py", writer.url, classifier.url, NAME)

    assert told["chat"] == "".join(told["pieces"]) == told["chain"] == told["async"] != ""
    assert len([piece for piece in told["pieces"] if piece]) > 3  # it came in pieces
    assert told["finish"] in ("stop", "length")
    [used] = told["streamedUsage"]
    assert {name: used[name] for name in ("input_tokens", "output_tokens", "total_tokens")} == {
        name: told["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens")
    }
    assert told["text"] == "".join(told["textPieces"]) == told["batch"][0] == text
    for given, known in zip(told["embeddings"], vectors["data"], strict=True):
        assert given == pytest.approx(known["embedding"], abs=1e-6)
    assert told["query"] == told["embeddings"][0]


def test_what_the_readme_types_is_answered_as_it_shows(classifier: Server):
    (command, shown), *more = re.findall(r"^\$ (curl .+)\n(.+)$", README.read_text(), re.MULTILINE)
    typed = command.replace("http://127.0.0.1:8080", classifier.url)
    told = json.loads(subprocess.run(typed, shell=True, check=True, capture_output=True, timeout=60).stdout)
    ours, theirs = json.loads(re.sub(r", \.\.\.", "", shown)), told | {"model": "reviews"}

    assert typed != command
    assert more == []
    assert [*ours] == [name for name in theirs if name in ours]
    assert ours | {"data": []} == {name: theirs[name] for name in ours} | {"data": []}
    assert ours["data"][0].keys() <= theirs["data"][0].keys()
    assert ours["data"][0]["index"] == theirs["data"][0]["index"]
    assert theirs["data"][0]["label"] in ("negative", "positive")
