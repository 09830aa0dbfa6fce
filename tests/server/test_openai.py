"""OpenAI's own client finds what it expects: whole, streamed, sync, async, with usage, seeds and probabilities."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Iterator

import openai
import pytest

from served import NAME, Server


@pytest.fixture
def client(writer: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{writer.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_text_goes_on_as_the_service_says_by_default(client: openai.OpenAI):
    found = client.completions.create(model=NAME, prompt="The government")

    [choice] = found.choices
    assert (found.object, found.model, choice.index, choice.logprobs) == ("text_completion", NAME, 0, None)
    assert choice.finish_reason in ("stop", "length")
    assert found.usage is not None
    assert 0 < found.usage.completion_tokens <= 24  # generation.maxNewTokens
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_seed_repeats_a_text_and_temperature_changes_it(client: openai.OpenAI):
    def text(**settings: float) -> str:
        return (
            client.completions.create(model=NAME, prompt="The police said", max_tokens=20, **settings).choices[0].text
        )  # type: ignore[call-overload, no-any-return]

    assert text(seed=5) == text(seed=5)
    assert text(seed=5) != text(seed=6)
    assert text(temperature=0, seed=5) == text(temperature=0, seed=6)
    assert text(seed=5, temperature=0.1) != text(seed=5, temperature=2.0)
    assert text(top_p=0.01, seed=5) == text(temperature=0)


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI):
    asked = {"model": NAME, "prompt": ["The police", "A man"], "max_tokens": 24, "seed": 3, "logprobs": 2}
    whole = client.completions.create(**asked)  # type: ignore[call-overload]

    parts = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]

    for place, choice in enumerate(whole.choices):
        mine = [one for part in parts for one in part.choices if one.index == place]
        assert "".join(one.text for one in mine) == choice.text
        assert [one.finish_reason for one in mine][-1] == choice.finish_reason
        assert {one.finish_reason for one in mine[:-1]} <= {None}
        assert [t for one in mine for t in one.logprobs.token_logprobs] == choice.logprobs.token_logprobs
        assert [t for one in mine for t in one.logprobs.text_offset] == choice.logprobs.text_offset
        assert choice.logprobs.text_offset[-1] > 0
        assert len(mine) > 5  # it came in pieces
    assert parts[-1].choices == []
    assert parts[-1].usage == whole.usage


def test_a_text_ends_before_its_stop_word(client: openai.OpenAI):
    plain = client.completions.create(model=NAME, prompt="The police", max_tokens=24, seed=3).choices[0].text
    word = plain[6:9]

    [choice] = client.completions.create(model=NAME, prompt="The police", max_tokens=24, seed=3, stop=[word]).choices

    assert choice.text == plain[: plain.index(word)]
    assert choice.finish_reason == "stop"


def test_several_texts_for_one_prompt_differ_and_are_those_of_the_seed(client: openai.OpenAI):
    found = client.completions.create(model=NAME, prompt="The", max_tokens=12, n=4, seed=1)

    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in found.choices}) > 1
    again = client.completions.create(model=NAME, prompt="The", max_tokens=12, n=4, seed=1)
    assert [choice.text for choice in again.choices] == [choice.text for choice in found.choices]


def test_probabilities_have_tokens_that_make_the_text(client: openai.OpenAI):
    [choice] = client.completions.create(
        model=NAME, prompt="The police", max_tokens=8, temperature=0, logprobs=3, echo=True
    ).choices

    told = choice.logprobs
    assert told is not None
    assert "The police" + "".join(told.tokens or []) == choice.text
    assert [
        choice.text[offset:][: len(token)]
        for offset, token in zip(told.text_offset or [], told.tokens or [], strict=True)
    ] == told.tokens
    for logprob, top in zip(told.token_logprobs or [], told.top_logprobs or [], strict=True):
        assert len(top) == 3
        assert logprob == max(top.values()) < 0  # greedy


def test_a_chat_is_answered_whole_and_streamed(client: openai.OpenAI):
    messages = [{"role": "user", "content": "What did the police say?"}]
    asked = {"model": NAME, "messages": messages, "max_completion_tokens": 10, "seed": 2}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)  # type: ignore[call-overload]

    parts = list(client.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]

    [choice] = whole.choices
    assert (whole.object, choice.message.role) == ("chat.completion", "assistant")
    assert len(choice.logprobs.content) == whole.usage.completion_tokens
    assert [len(one.top_logprobs) for one in choice.logprobs.content] == [2] * whole.usage.completion_tokens
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content for part in parts) == choice.message.content


def test_a_text_is_clipped_to_the_window(client: openai.OpenAI):
    prompt = list(range(100, 416))  # of 320

    found = client.completions.create(model=NAME, prompt=prompt, max_tokens=1000, extra_body={"ignore_eos": True})

    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (316, 4)
    with pytest.raises(openai.BadRequestError, match="Input 0 has 320 tokens; at most 319"):
        client.completions.create(model=NAME, prompt=list(range(100, 420)))


def test_sixty_four_at_once_get_what_each_would_get_alone(writer: Server):
    async def texts(together: bool) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{writer.url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                prompt = "The police said that the government would " * (1 + seed % 5)
                asked = {"model": NAME, "prompt": prompt, "seed": seed, "max_tokens": 4 + seed % 20}
                if seed % 2:
                    stream = await client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
                    return "".join([part.choices[0].text async for part in stream])
                return (await client.completions.create(**asked)).choices[0].text  # type: ignore[call-overload, no-any-return]

            if together:
                return list(await asyncio.gather(*map(one, range(64))))
            return [await one(seed) for seed in range(64)]

    assert asyncio.run(texts(True)) == asyncio.run(texts(False))


def test_embeddings_come_as_numbers_or_packed(classifier: Server):
    with openai.OpenAI(base_url=f"{classifier.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [NAME]
        packed = client.embeddings.create(model=NAME, input=["a fine film", "a dull film"])  # base64 by default
        plain = client.embeddings.create(model=NAME, input=["a fine film", "a dull film"], encoding_format="float")

    assert [len(one.embedding) for one in packed.data] == [384, 384]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-5)
    with classifier.client() as http:
        body = {"model": NAME, "input": [[101, 102], [101, 2023, 102]], "encoding_format": "base64"}
        found = http.post("/v1/embeddings", json=body).json()
    assert len(struct.unpack("<384f", base64.b64decode(found["data"][1]["embedding"]))) == 384
    assert found["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
