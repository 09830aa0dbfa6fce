"""The protocols of KServe: what goes in as instances or tensors comes out classified, filled or written."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import httpx
import numpy as np
import pytest

import served
from lmops_compressor.runners import Array
from lmops_server.encoders import Example, encoder
from lmops_server.opened import Opened
from lmops_trainer import models
from served import NAME, Server, Volumes
from volumes import raw

TEXTS = ["a wonderful, moving film", "dull", "it was a long and empty evening in the cinema, and nobody laughed"]


def snippets(count: int) -> list[str]:
    lines = raw("movieReviewSnippets_GroundTruth.txt").read_text("utf-8").splitlines()
    return [line.split("\t")[2] for line in lines[:: len(lines) // count][:count]]


def test_both_protocols_tell_the_classes_that_the_model_gives(classifier: Server, volumes: Volumes, reviews: str):
    import torch
    from transformers import AutoTokenizer

    folder = volumes.root / reviews.removeprefix("pvc://")
    model, tokenizer = models.load(folder, "SequenceClassification"), AutoTokenizer.from_pretrained(folder)
    with classifier.client() as http:
        v1 = http.post(f"/v1/models/{NAME}:predict", json={"instances": TEXTS}).json()["predictions"]
        tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": TEXTS}
        v2 = http.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor], "id": "7"}).json()
        best = http.post("/v1/classify", json={"input": TEXTS, "top_k": 1}).json()["data"]
        tokens = http.post("/v1/tokenize", json={"input": TEXTS}).json()["data"]
        plain = http.post("/v1/tokenize", json={"input": TEXTS[0], "add_special_tokens": False}).json()["data"]

    assert [one["tokens"] for one in tokens] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert [one["tokens"] for one in plain] == [tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]
    assert [[*one["probabilities"]] for one in best] == [[one["label"]] for one in v1]
    for text, told in zip(TEXTS, v1, strict=True):
        with torch.no_grad():
            given = tokenizer(text, return_tensors="pt")
            wanted = model(**given)["logits"][0].softmax(-1).tolist()
        assert [told["probabilities"][name] for name in ("negative", "positive")] == pytest.approx(wanted, abs=1e-5)
        assert told["label"] == ("negative", "positive")[wanted.index(max(wanted))]
    outputs = {one["name"]: one for one in v2["outputs"]}
    assert (v2["model_name"], v2["id"]) == (NAME, "7")
    assert outputs["label"]["data"] == [one["label"] for one in v1]
    assert outputs["confidence"]["data"] == [one["confidence"] for one in v1]
    assert (outputs["probabilities"]["shape"], outputs["classes"]["shape"]) == ([3, 2], [3, 2])


def test_texts_in_binary_are_read_as_kserve_s_client_sends_them(classifier: Server):
    data = b"".join(struct.pack("<I", len(text)) + text.encode() for text in TEXTS)
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "parameters": parameters}
    head = httpx.Request("POST", "http://x", json={"inputs": [tensor], "outputs": [{"name": "label"}]}).content
    with classifier.client() as http:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        found = http.post(f"/v2/models/{NAME}/infer", content=head + data, headers=headers)
        plain = http.post(f"/v1/models/{NAME}:predict", json={"instances": TEXTS}).json()["predictions"]
        cut = http.post(f"/v2/models/{NAME}/infer", content=head + data[:-1], headers=headers)

    assert found.json()["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [3], "data": [one["label"] for one in plain]}
    ]
    assert (cut.status_code, list(cut.json())) == (400, ["error"])


def test_sixty_four_at_once_are_classified_as_each_alone(classifier: Server):
    texts = snippets(64)

    async def all_of_them(together: bool) -> list[dict[str, float]]:
        async with httpx.AsyncClient(base_url=classifier.url, timeout=60) as http:

            async def one(text: str) -> dict[str, float]:
                answer = await http.post("/v1/classify", json={"input": text})
                assert answer.status_code == 200, answer.text
                return answer.json()["data"][0]["probabilities"]  # type: ignore[no-any-return]

            if together:
                return list(await asyncio.gather(*map(one, texts)))
            return [await one(text) for text in texts]

    together, alone = asyncio.run(all_of_them(True)), asyncio.run(all_of_them(False))

    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({round(one["positive"], 3) for one in alone}) > 30
    with classifier.client() as http:
        figures = http.get("/metrics").text
    batches = {
        line.split()[0]: float(line.split()[1]) for line in figures.splitlines() if line.startswith("lmops_batch_rows")
    }
    assert batches["lmops_batch_rows_sum"] > batches["lmops_batch_rows_count"]  # some went together


def test_a_graph_in_int8_answers_the_same_in_any_company(
    volumes: Volumes, reviews_int8: str, tmp_path: Path, classifier: Server
):
    texts = snippets(32)
    with served.serving(volumes, served.document(reviews_int8), tmp_path) as server, server.client() as http:
        alone = [http.post("/v1/classify", json={"input": text}).json()["data"][0] for text in texts]
        together = http.post("/v1/classify", json={"input": texts}).json()["data"]
        engine = http.get("/passport").json()["engine"]
    with classifier.client() as http:
        whole = http.post("/v1/classify", json={"input": texts}).json()["data"]

    assert engine == {"name": "ONNX", "artefact": "onnx", "device": "cpu"}
    assert [one["probabilities"] for one in together] == [one["probabilities"] for one in alone]
    assert sum(a["label"] == b["label"] for a, b in zip(together, whole, strict=True)) >= 28


def test_a_graph_in_int8_embeds_and_tells_where_inputs_lie(
    volumes: Volumes, reviews_int8: str, tmp_path: Path, classifier: Server, monkeypatch: pytest.MonkeyPatch
):
    texts = snippets(32)
    asked = {"model": NAME, "input": texts}
    with served.serving(volumes, served.document(reviews_int8), tmp_path) as server, server.client() as http:
        embedded = http.post("/v1/embeddings", json=asked).json()["data"]
    with classifier.client() as http:
        whole = http.post("/v1/embeddings", json=asked).json()["data"]

    found, wanted = (np.asarray([one["embedding"] for one in each]) for each in (embedded, whole))
    assert (found * wanted).sum(-1).min() > 0.95  # vectors of length 1
    assert (found * np.roll(wanted, 1, axis=0)).sum(-1).mean() < 0.9  # and not all the same
    monkeypatch.setenv("LMOPS_VOLUMES", str(volumes.root))
    graph, places = encoder(Opened.open(served.document(reviews_int8)), 1), list[Array]()
    graph.placed = places.append
    graph([Example([101, 2307, 102], None)])
    assert [place.shape for place in places] == [found[0].shape]


def test_masks_are_filled(volumes: Volumes, masked: str, tmp_path: Path):
    asked = {"input": ["the film was [MASK] .", "<mask> and [MASK]"], "top_k": 3}
    with served.serving(volumes, served.document(masked), tmp_path) as server, server.client() as http:
        found = http.post("/v1/fill-mask", json=asked).json()["data"]
        tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": asked["input"]}
        v2 = http.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor], "parameters": {"top_k": 3}}).json()
        none = http.post("/v1/fill-mask", json={"input": "no mask"})
        many = http.post("/v1/fill-mask", json={"input": ["[MASK] " * 20] * 20})

    assert [[len(mask) for mask in one["masks"]] for one in found] == [[3], [3, 3]]
    outputs = {one["name"]: one for one in v2["outputs"]}
    assert outputs["row"]["data"] == [0, 1, 1]
    assert outputs["tokens"]["shape"] == [3, 3]
    assert outputs["tokens"]["data"][:3] == [one["token"] for one in found[0]["masks"][0]]
    assert (none.status_code, "[MASK]" in none.json()["error"]["message"]) == (400, True)
    assert (many.status_code, "at most 256 are filled" in many.json()["error"]["message"]) == (400, True)


def test_metadata_tells_what_the_model_is(classifier: Server):
    with classifier.client() as http:
        about = http.get(f"/v2/models/{NAME}").json()
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
        assert http.get("/v1/models").json()["models"] == [NAME]

    assert about["properties"] == {"task": "SequenceClassification", "labels": ["negative", "positive"], "window": 512}
    assert [one["name"] for one in about["outputs"]] == ["label", "confidence", "classes", "probabilities"]


def test_a_language_model_writes_by_kserve_s_protocols_as_well(writer: Server):
    settings = {"max_tokens": 6, "seed": 4}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["The police"]}
    with writer.client() as http:
        v1 = http.post(f"/v1/models/{NAME}:predict", json={"instances": ["The police"], "parameters": settings}).json()
        v2 = http.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor], "parameters": settings}).json()
        body = {"model": NAME, "prompt": "The police", **settings}
        openai = http.post("/v1/completions", json=body).json()["choices"][0]

    assert v1["predictions"] == [{"generated": openai["text"], "finish_reason": openai["finish_reason"]}]
    assert v2["outputs"][0]["data"] == [openai["text"]]
