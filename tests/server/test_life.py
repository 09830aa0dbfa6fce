"""A server from its start to its end: what it will not load, how it refuses what is too much, and how it goes."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import served
from lmops.api import LastWords, Serving
from lmops.serving.inferenceservice import REVISION, revision_of
from lmops_server.encoders import encoder
from lmops_server.opened import Opened
from lmops_server.serve import _warm_texts
from lmops_server.texts import Texts
from lmops_trainer.failures import Refusal, failure_of
from served import NAME, Server, Volumes, document
from serving.builders import A, after, crashed, kept, pod, service


@pytest.fixture
def copied(volumes: Volumes, reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the classifier at pvc://models/copy."""
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))
    return shutil.copytree(volumes.root / reviews.removeprefix("pvc://"), tmp_path / "models" / "copy")


def told(serving: Serving) -> str:
    """What the owner of the service reads of a model that is not opened."""
    with pytest.raises(Refusal) as refusal:
        Opened.open(serving)
    failed = failure_of(refusal.value)
    return f"{failed.reason}: {failed.message} {failed.remedy}"


def test_a_model_is_what_its_passport_and_its_service_say(copied: Path):
    uri, digest = "pvc://models/copy", json.loads((copied / "lmops.json").read_text())["digest"]

    opened = Opened.open(document(uri, digest))

    assert (opened.digest, opened.task, opened.labels) == (digest, "SequenceClassification", ["negative", "positive"])
    assert (opened.engine, opened.max_length, opened.window) == ("Transformers", 48, 512)
    other = "sha256:" + "0" * 64
    assert told(document(uri, other)) == (
        f"DigestMismatch: {uri} holds the model {digest[:19]}, not sha256:000000000000 that is asked for. "
        "Name the folder of that model, or pin the digest of this one."
    )
    assert told(document(uri, task="CausalLM")).startswith(
        f"AnotherTask: {uri} is made for SequenceClassification, not"
    )
    assert told(document(uri, engine="ONNX")) == (
        f"EngineUnfit: The engine ONNX does not serve safetensors, which {uri} is in. "
        "Set engine to Auto or Transformers."
    )


def test_a_model_that_was_cut_short_is_not_loaded(copied: Path):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])

    assert told(document("pvc://models/copy")).startswith(
        "ModelDamaged: pvc://models/copy is not what its passport says: model.safetensors differs or is missing. Copy"
    )


def test_a_folder_without_weights_or_with_pickles_alone_says_so(copied: Path):
    (copied / "model.safetensors").unlink()
    assert told(document("pvc://models/copy")).startswith("NoWeights: pvc://models/copy holds no safetensors weights. ")
    torch.save({}, copied / "pytorch_model.bin")
    assert told(document("pvc://models/copy")).startswith(
        "PickledWeights: pvc://models/copy holds no safetensors weights, only pytorch_model.bin, which can run code"
    )
    assert told(document("pvc://models")) == (
        "ModelMissing: pvc://models is no model: it holds no config.json. "
        "Name the folder of the model in it, as pvc://models/copy."
    )
    shutil.rmtree(copied)
    assert told(document("pvc://models/copy")).startswith("ModelMissing: pvc://models/copy is no model: there is no")


def test_a_folder_without_a_tokenizer_says_so(copied: Path):
    for file in ("tokenizer.json", "vocab.txt"):
        (copied / file).unlink(missing_ok=True)
    (copied / "lmops.json").unlink()  # with it the folder would not be what its passport says
    opened = Opened.open(document("pvc://models/copy"))

    with pytest.raises(Refusal, match=r"pvc://models/copy holds no tokenizer\."):
        opened.tokenizer()


def test_an_encoder_is_warmed_up_within_what_the_service_takes(copied: Path):
    opened = Opened.open(document("pvc://models/copy"))
    passed = list[int]()

    for longest in (2, None):
        model = encoder(opened, 1)
        texts = Texts(opened, model, longest)
        texts.batcher._work = lambda examples, model=model: [passed.append(len(examples[0].ids)), model(examples)][1]
        asyncio.run(_warm_texts(texts))
        texts.batcher.close()

    assert passed == [1, 2, 1, 48]


def test_the_sentence_reaches_the_termination_message_and_the_process_ends(
    volumes: Volumes, reviews: str, tmp_path: Path
):
    wrong = document(reviews, "sha256:" + "0" * 64)

    server = served.start(volumes, wrong, tmp_path)

    assert server.process.wait(60) == 1
    words = LastWords.model_validate_json((tmp_path / "termination").read_text())
    assert words.failure is not None
    assert (words.failure.class_, words.failure.reason) == ("Model", "DigestMismatch")


def test_a_hub_that_is_away_is_told_by_the_server_and_then_by_the_service(volumes: Volumes, tmp_path: Path):
    uri = "hf://owner/film-critic"
    nobody = {"HF_ENDPOINT": f"http://127.0.0.1:{served.free_port()}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    new = service(model={"from": {"uri": uri}})

    server = served.start(volumes, document(uri), tmp_path, nobody)

    assert server.process.wait(60) == 1
    starts = after(new)
    (child,) = starts.apply
    replica = pod(new, A, ready=False, **crashed(message=(tmp_path / "termination").read_text()))
    replica["metadata"]["labels"][REVISION] = revision_of(child)
    told = after(kept(new, starts), child, replica).status
    assert (told.phase, told.failure.class_, told.failure.reason) == ("Failed", "Model", "HubUnreachable")
    assert told.failure.message == f"{uri} could not be fetched from the hub."
    assert told.failure.remedy.startswith("Check that pods may reach the hub and that HF_HUB_OFFLINE is not set")
    assert "Connection refused" in told.failure.evidence[0]


@pytest.mark.parametrize("model", ["reviews", "gpt2"])
def test_it_is_not_ready_before_it_has_answered_by_itself(
    model: str, request: pytest.FixtureRequest, volumes: Volumes, tmp_path: Path
):
    server = served.start(volumes, document(request.getfixturevalue(model)), tmp_path)
    refused = 0
    try:
        while (told := readiness(server)) != 200:
            assert (told, server.process.poll()) == (None, None)  # nobody listens, and nobody gives up
            refused += 1
        figures = httpx.get(f"{server.url}/metrics").text
    finally:
        served.stop(server)

    assert refused > 0
    assert counted("lmops_batch_rows_count", figures) > 0
    assert counted("lmops_requests_total", figures) == 0


def readiness(server: Server) -> int | None:
    """What a probe is answered; nothing where nobody listens."""
    try:
        return httpx.get(f"{server.url}/v2/health/ready").status_code
    except httpx.TransportError:
        return None


def counted(name: str, figures: str) -> float:
    """A figure, summed up over its labels."""
    lines = (line.split() for line in figures.splitlines())
    return sum(float(line[-1]) for line in lines if line[0].partition("{")[0] == name)


def test_a_model_that_is_loaded_and_then_cannot_answer_is_not_served(volumes: Volumes, copied: Path, tmp_path: Path):
    passport = json.loads((copied / "lmops.json").read_text())
    (copied / "lmops.json").write_text(json.dumps({**passport, "maxLength": 600}))  # there are 512 positions

    server = served.start(Volumes(copied.parents[1]), document("pvc://models/copy"), tmp_path)

    assert server.process.wait(60) == 1
    words = LastWords.model_validate_json((tmp_path / "termination").read_text())
    assert words.failure is not None
    assert (words.failure.class_, words.failure.reason) == ("Model", "WarmUpFailed")
    assert words.failure.message.startswith("pvc://models/copy was loaded by Transformers, but cannot answer: ")
    assert "600" in words.failure.message
    assert words.failure.evidence[-1] in server.log.read_text()


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            "{% for m in messages %}\n{{ m.content }",
            "generation.chatTemplate is no Jinja template: line 2: unexpected '}'.",
        ),
        (
            "{{ messages[0].parts[3].text }}",
            "generation.chatTemplate cannot write a chat of one message: 'dict object' has no attribute 'parts'.",
        ),
    ],
    ids=["what is no template", "a template of other messages"],
)
def test_a_broken_chat_template_is_found_before_anybody_chats(
    template: str, sentence: str, volumes: Volumes, gpt2: str, tmp_path: Path
):
    server = served.start(volumes, document(gpt2, generation={"chatTemplate": template}), tmp_path)

    assert server.process.wait(60) == 1
    words = LastWords.model_validate_json((tmp_path / "termination").read_text())
    assert words.failure is not None
    assert (words.failure.class_, words.failure.reason) == ("Settings", "ChatTemplateBroken")
    assert words.failure.message == sentence
    assert words.failure.remedy == "Correct the template, or leave it out for the model's own."


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_answered(volumes: Volumes, gpt2: str, tmp_path: Path):
    limits = {"queue": 4, "timeoutSeconds": 20}

    async def flood(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            body = {"model": NAME, "prompt": "The police", "max_tokens": 60, "ignore_eos": True}
            return list(await asyncio.gather(*(http.post("/v1/completions", json=body) for _ in range(24))))

    with served.serving(volumes, document(gpt2, limits=limits), tmp_path) as server:
        answers = asyncio.run(flood(server.url))
        with server.client() as http:
            after = http.get("/stats").json()

    good = [answer for answer in answers if answer.status_code == 200]
    full = [answer for answer in answers if answer.status_code == 429]
    assert len(good) >= 4
    assert len(good) + len(full) == 24
    assert full
    assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in full)
    assert full[0].json()["error"]["type"] == "rate_limit_error"
    assert (after["working"], after["refused"], after["failed"]) == (0, len(full), 0)


def test_the_service_says_what_is_taken_and_how_it_is_answered(volumes: Volumes, gpt2: str, tmp_path: Path):
    taken = document(gpt2, limits={"inputTokens": 8}, generation={"topK": 1, "maxNewTokens": 12})
    body = {"model": NAME, "prompt": "The police"}
    with served.serving(volumes, taken, tmp_path) as server, server.client() as http:
        said = [http.post("/v1/completions", json=body | {"seed": seed}).json() for seed in (1, 2)]
        other = http.post("/v1/completions", json=body | {"seed": 1, "top_k": 50}).json()
        long = http.post("/v1/completions", json=body | {"prompt": "The police " * 8})
        chat = http.post("/v1/chat/completions", json={"model": NAME, "messages": [{"role": "user", "content": "a"}]})

    texts = [one["choices"][0]["text"] for one in (*said, other)]
    assert texts[0] == texts[1] != texts[2]  # the likeliest token, whatever the seed
    assert (long.status_code, "at most 8" in long.json()["error"]["message"]) == (400, True)
    assert (chat.status_code, "generation.chatTemplate" in chat.json()["error"]["message"]) == (400, True)


def test_who_goes_away_leaves_the_place_to_others(volumes: Volumes, gpt2: str, tmp_path: Path):
    body = {"model": NAME, "prompt": "The police", "max_tokens": 300, "ignore_eos": True, "n": 4, "stream": True}
    with served.serving(volumes, document(gpt2, limits={"queue": 4}), tmp_path) as server, server.client() as http:
        with http.stream("POST", "/v1/completions", json=body) as streamed:
            lines = streamed.iter_lines()  # held: dropped, it would hang up
            next(lines)
            assert http.get("/stats").json()["working"] == 4
        until_nothing_is_worked_on(http)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/completions", json=body | {"stream": False}, timeout=0.05)
        until_nothing_is_worked_on(http)
        figures = http.get("/metrics").text

    assert 'lmops_requests_total{route="/v1/completions",status="499"}' in figures


def until_nothing_is_worked_on(http: httpx.Client) -> None:
    end = time.monotonic() + 5
    while http.get("/stats").json()["working"]:
        assert time.monotonic() < end


def test_an_answer_that_takes_too_long_is_ended(volumes: Volumes, gpt2: str, tmp_path: Path):
    body = {"model": NAME, "prompt": "The police", "max_tokens": 310, "ignore_eos": True, "n": 32}
    slow = document(gpt2, limits={"timeoutSeconds": 1})
    with served.serving(volumes, slow, tmp_path) as server, server.client() as http:
        answer = http.post("/v1/completions", json=body)
        streamed = http.post("/v1/completions", json=body | {"stream": True})

    assert (answer.status_code, "limits.timeoutSeconds" in answer.json()["error"]["message"]) == (504, True)
    lines = [line for line in streamed.text.splitlines() if line]
    assert streamed.status_code == 200
    assert "limits.timeoutSeconds" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]


def test_keys_are_asked_for_where_the_service_has_some(volumes: Volumes, reviews: str, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "first").write_text("sesame\n")
    body = {"input": "a film"}
    known = {"LMOPS_API_KEYS": str(keys)}
    with served.serving(volumes, document(reviews), tmp_path, known) as server, server.client() as http:
        statuses = [
            http.post("/v1/classify", json=body, headers=headers).status_code
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer sesame"})
        ]
        health = http.get("/v2/health/ready").status_code

    assert (statuses, health) == ([401, 401, 200], 200)


def test_asked_to_end_it_is_no_longer_ready_and_answers_what_it_has(volumes: Volumes, gpt2: str, tmp_path: Path):
    body = {"model": NAME, "prompt": "The police", "max_tokens": 300, "ignore_eos": True, "n": 8}
    started = served.start(volumes, document(gpt2), tmp_path, {"LMOPS_DRAIN_SECONDS": "1"})
    served.await_ready(started)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{started.url}/v1/completions", json=body, timeout=60)
        time.sleep(0.3)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        during = httpx.get(f"{started.url}/v2/health/ready").status_code
        late = httpx.post(f"{started.url}/v1/completions", json=body | {"max_tokens": 1, "n": 1}, timeout=60)
        assert answer.result().json()["usage"]["completion_tokens"] == 8 * 300

    assert (during, late.status_code, late.headers["connection"]) == (503, 200, "close")
    assert started.process.wait(30) == 0


def test_the_page_and_the_document_of_the_api_are_there(writer: Server):
    with writer.client() as http:
        page = http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})  # as browsers ask
        api = http.get("/openapi.json").json()
        about = http.get("/passport").json()

    assert page.headers["content-type"].startswith("text/html")
    assert "https://" not in page.text  # it works where nothing else can be reached
    assert "http://" not in page.text
    assert {"/v1/completions", "/v2/models/{model}/infer", "/v1/models/{model}:predict"} <= set(api["paths"])
    assert "temperature" in api["components"]["schemas"]["Completion"]["properties"]
    assert about["passport"]["kind"] == "Passport"
    assert (about["model"]["task"], about["generation"]["maxNewTokens"], about["window"]) == ("CausalLM", 24, 320)


def test_figures_have_the_names_of_opentelemetry(writer: Server):
    with writer.client() as http:
        body: dict[str, Any] = {"model": NAME, "prompt": "The police", "max_tokens": 5, "ignore_eos": True}
        http.post("/v1/completions", json=body).raise_for_status()
        figures = http.get("/metrics").text

    labels = f'gen_ai_operation_name="text_completion",gen_ai_provider_name="lmops",gen_ai_request_model="{NAME}"'
    for name in ("time_to_first_token", "time_per_output_token"):
        assert f"gen_ai_server_{name}_seconds_count{{{labels}}}" in figures
    assert f'gen_ai_server_request_duration_seconds_bucket{{error_type="",{labels},le="0.32"}}' in figures
    assert f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="output"}}' in figures
    assert 'lmops_requests_total{route="/v1/completions",status="200"}' in figures
