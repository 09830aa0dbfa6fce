"""What is wrong gets a 4xx and a sentence in the protocol's own form: never a 500, never a hang, nobody else harmed."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest

from served import NAME, Server

V1, V2 = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"


def texts(**tensor: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]} | tensor]}


ENCODER = [
    (V1, b"", 400, "The body is not JSON"),
    (V1, b"{", 400, "The body is not JSON"),
    (V1, b'{"instances": ["\xff\xfe"]}', 400, "not JSON"),
    (V1, b'{"instances": ["\\ud800"]}', 400, "not JSON"),
    (V1, b"[" * 50_000, 400, "not JSON"),
    (V1, b'{"instances": [NaN]}', 400, "instances"),
    (V1, {}, 400, "instances: field required"),
    (V1, {"instances": []}, 400, "at least 1 item"),
    (V1, {"instances": "text"}, 400, "instances"),
    (V1, {"instances": [1]}, 400, "instances.0"),
    (V1, {"instances": [None]}, 400, "instances.0"),
    (V1, {"instances": [{"text": "a", "pear": "b"}]}, 400, "instances.0"),
    (V1, {"instances": ["a"], "parameters": {"top_k": 0}}, 400, "parameters.top_k"),
    (V1, {"instances": ["a"], "parameters": {"top_k": True}}, 400, "parameters.top_k"),
    (V1, {"instances": ["a"], "parameters": {"temperature": 1.0}}, 400, "means nothing to a model for Sequence"),
    (V1, {"instances": ["a"] * 65}, 400, "limits.queue"),
    (V1, {"instances": ["a" * 70_000]}, 413, "limits.bodyBytes"),
    ("/v1/models/other:predict", {"instances": ["a"]}, 404, "'other'"),
    ("/v2/models/other/infer", texts(), 404, "'other'"),
    (V2, texts() | {"model_name": "other"}, 404, "'other'"),
    (V2, {"inputs": []}, 400, "inputs"),
    (V2, texts(shape=[2]), 400, "shape"),
    (V2, texts(shape=[-1]), 400, "shape"),
    (V2, texts(datatype="FP32", data=[1.0]), 400, "datatype"),
    (V2, texts(name="image"), 400, "name"),
    (V2, texts(name="pair"), 400, "no input named 'text'"),
    (V2, texts(parameters={"binary_data_size": 1 << 40}, data=None), 400, "shape"),
    (V2, texts() | {"outputs": [{"name": "logits"}]}, 400, "no output 'logits'"),
    ("/v1/classify", {"input": []}, 400, "input"),
    ("/v1/classify", {"input": "a", "model": "other"}, 404, "'other'"),
    ("/v1/classify", {"input": "a", "inputs": "b"}, 400, "no field 'inputs'"),
    ("/v1/fill-mask", {"input": "[MASK]"}, 400, "ask it by /v1/classify"),
    ("/v1/completions", {"model": NAME, "prompt": "a"}, 400, "ask it by /v1/classify"),
    ("/v1/embeddings", {"model": NAME, "input": [30522]}, 400, "numbers from 0 to 30521"),
    ("/v1/embeddings", {"model": NAME, "input": [[-1]]}, 400, "numbers from 0"),
    ("/v1/embeddings", {"model": NAME, "input": [1] * 513}, 400, "at most 512"),
    ("/v1/embeddings", {"model": NAME, "input": "a", "dimensions": 7}, 400, "384 dimensions"),
    ("/v1/embeddings", {"model": NAME, "input": "film " * 60}, 400, "at most 48"),
    ("/v1/classify", {"input": ["a"] * 5_000}, 400, "at most 4096"),
    ("/v1/classify", {"input": ["a", {"text": "b", "pair": 5}]}, 400, "input.1.pair: input should be a valid string"),
    ("/v1/classify", {"input": {"text": "a", "pear": "b"}}, 400, "no field 'input.pear'"),
    ("/v1/classify", {"input": "a", "Top_k": 3}, 400, "no field 'Top_k'"),
    ("/v1/tokenize", {"input": 7}, 400, "input"),
    ("/v1/nothing", {}, 404, "GET /openapi.json says"),
]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def completion(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "a", **more}


def chat(content: Any = "a", **more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": content}], **more}


WRITER = [
    (COMPLETIONS, b"{", 400, "not JSON"),
    (COMPLETIONS, {"prompt": "a"}, 400, "model: field required"),
    (COMPLETIONS, completion(model="gpt-4"), 404, "'gpt-4'"),
    (COMPLETIONS, completion(temperature=-1), 400, "temperature"),
    (COMPLETIONS, completion(temperature=2.1), 400, "temperature"),
    (COMPLETIONS, completion(temperature="hot"), 400, "temperature"),
    (COMPLETIONS, completion(top_p=0), 400, "top_p"),
    (COMPLETIONS, completion(top_k=-1), 400, "top_k"),
    (COMPLETIONS, completion(max_tokens=0), 400, "max_tokens"),
    (COMPLETIONS, completion(max_tokens=1.5), 400, "max_tokens"),
    (COMPLETIONS, completion(n=0), 400, "n:"),
    (COMPLETIONS, completion(best_of=3), 400, "best_of"),
    (COMPLETIONS, completion(suffix="b"), 400, "suffix"),
    (COMPLETIONS, completion(stop=[""]), 400, "stop"),
    (COMPLETIONS, completion(stop=["a"] * 17), 400, "stop"),
    (COMPLETIONS, completion(logprobs=21), 400, "logprobs"),
    (COMPLETIONS, completion(logit_bias={"x": 1}), 400, "logit_bias"),
    (COMPLETIONS, completion(logit_bias={"9999": 1}), 400, "logit_bias"),
    (COMPLETIONS, completion(stream_options={"include_usage": True}), 400, "stream: true"),
    (COMPLETIONS, completion(tools=[]), 400, "no field 'tools'"),
    (COMPLETIONS, completion(prompt=""), 400, "empty"),
    (COMPLETIONS, completion(prompt=[]), 400, "prompt"),
    (COMPLETIONS, completion(prompt=[1024]), 400, "numbers from 0 to 1023"),
    (COMPLETIONS, completion(prompt="police " * 400), 400, "at most 319"),
    (COMPLETIONS, completion(prompt="police " * 400, stream=True), 400, "at most 319"),
    (COMPLETIONS, completion(prompt=["a"] * 5, n=128), 400, "limits.queue"),
    (CHAT, chat(messages=[]), 400, "messages"),
    (CHAT, chat(None), 400, "messages.0.content"),
    (CHAT, {"model": NAME, "messages": [{"role": "user"}]}, 400, "messages.0.content: field required"),
    (CHAT, {"model": NAME, "messages": [{"content": "a"}]}, 400, "role"),
    (CHAT, chat([{"type": "image_url", "image_url": {"url": "x"}}]), 400, "messages.0.content"),
    (CHAT, chat(top_logprobs=2), 400, "logprobs: true"),
    (CHAT, chat(response_format={"type": "json_object"}), 400, "response_format"),
    ("/v1/classify", {"input": "a"}, 400, "ask it by /v1/completions"),
    ("/v1/embeddings", {"model": NAME, "input": "a"}, 400, "ask it by /v1/completions"),
    (V1, {"instances": [{"text": "a", "pair": "b"}]}, 400, "leave the pair out"),
    (V1, {"instances": ["a"], "parameters": {"temperature": -1}}, 400, "temperature"),
]


def refused(server: Server, path: str, body: Any, status: int, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with server.client() as http:
        answer = http.post(path, content=content)  # and no content type at all
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    is_kserve = path.startswith("/v2") or ":predict" in path
    message = error if is_kserve else error["message"]
    assert words in message
    assert is_kserve or set(error) == {"message", "type", "param", "code"}
    assert message.endswith((".", "}"))


@pytest.mark.parametrize(("path", "body", "status", "words"), ENCODER)
def test_an_encoder_says_what_is_wrong(classifier: Server, path: str, body: Any, status: int, words: str):
    refused(classifier, path, body, status, words)


@pytest.mark.parametrize(("path", "body", "status", "words"), WRITER)
def test_a_language_model_says_what_is_wrong(writer: Server, path: str, body: Any, status: int, words: str):
    refused(writer, path, body, status, words)


def test_methods_and_paths_that_are_not_there(classifier: Server):
    with classifier.client() as http:
        assert (http.get(V2).status_code, http.post("/v1/models").status_code) == (405, 405)
        assert (http.get("/v3").status_code, http.get("/v1/models/other").status_code) == (404, 404)
        assert http.get("/v2/models/other/ready").json() == {
            "error": "There is no model 'other' here; the model is 'served'."
        }


def test_a_body_that_never_ends_is_cut_off_before_it_is_read(classifier: Server):
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 100 << 20:
            sent += 16_384
            yield b" " * 16_384

    with classifier.client() as http, suppress(httpx.TransportError):  # where the server has hung up on us first
        assert http.post(V1, content=endless()).status_code == 413
    assert sent < 20 << 20


def test_slow_clients_take_nobody_else_s_place(classifier: Server):
    port = int(classifier.url.rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        for one in slow:
            one.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        with classifier.client() as http:
            assert http.post("/v1/classify", json={"input": "a film"}).status_code == 200
        assert time.monotonic() - began < 5
    finally:
        for one in slow:
            one.close()


def test_nothing_of_this_was_a_fault_of_the_server(classifier: Server, writer: Server):
    for server in (classifier, writer):
        with server.client() as http:
            figures = http.get("/metrics").text
        assert "lmops_requests_total" in figures
        assert 'status="500"' not in figures
