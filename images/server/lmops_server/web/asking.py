"""What OpenAI's clients ask of a language model, as texts to write: checked, clipped to the window, with defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from jinja2 import TemplateSyntaxError
from pydantic import Field

from lmops_server.faults import wrong
from lmops_server.texts import too_long
from lmops_server.web.forms import Form
from lmops_server.web.service import Service
from lmops_server.writing import Ask
from lmops_trainer.failures import Refusal

Tokens = Annotated[list[int], Field(min_length=1, max_length=1 << 20)]
Prompts = Annotated[list[Annotated[str, Field(min_length=0)]], Field(min_length=1, max_length=1024)]
Stop = str | Annotated[list[str], Field(max_length=16)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


class StreamOptions(Form):
    """What is streamed besides the text."""

    include_usage: bool = False
    """Whether a last event tells the tokens that were used."""
    include_obfuscation: bool = False
    """Taken and not looked at: nothing is padded here."""


class Sampling(Form):
    """How a text is written: what completions and chats have in common."""

    model: str
    """The name of the model."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """How freely tokens are drawn; 0 takes the likeliest. Default: as the service says."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Tokens are drawn from the likeliest that together are this probable. Default: as the service says."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Tokens are drawn from this many of the likeliest; 0 is all. Default: as the service says."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many texts are written for each prompt. Default: 1."""
    stop: Stop | None = None
    """A text ends before the first of these."""
    seed: int | None = None
    """The same seed gives the same text."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Makes tokens less likely by how often they were written."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Makes tokens less likely that were written."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """What is added to the scores of tokens, by their numbers."""
    ignore_eos: bool = False
    """Whether to go on where the model would end."""
    stream: bool | None = None
    """Whether the text comes piece by piece."""
    stream_options: StreamOptions | None = None
    """What is streamed besides the text."""
    user: str | None = None
    """Who asks; taken and not looked at."""


class Completion(Sampling):
    """A text to go on with."""

    prompt: str | Prompts | Tokens | Annotated[list[Tokens], Field(min_length=1, max_length=1024)]
    """The beginning: a text, several, or lists of this model's tokens."""
    max_tokens: Count | None = None
    """The most tokens that are written. Default: as the service says, at most what the window leaves."""
    echo: bool = False
    """Whether the prompt is told in front of the text."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of how many of the likeliest tokens probabilities are told."""
    best_of: int | None = None
    """As many as `n`: the best of more is not chosen here."""
    suffix: str | None = None
    """Not possible with these models."""


class Part(Form):
    """A part of a message."""

    type: Literal["text"]
    """Texts alone are read."""
    text: str
    """What it says."""


class Message(Form):
    """What was said in a chat."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    """Who said it: system, user, assistant, or what the template knows."""
    content: str | list[Part]
    """What was said."""
    name: str | None = None
    """Who it was by name."""

    def told(self) -> dict[str, str]:
        """As a template reads it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content} | ({"name": self.name} if self.name else {})


class ResponseFormat(Form):
    """How the answer looks."""

    type: Literal["text"]
    """Text: no other form is enforced here."""


class Chat(Sampling):
    """A chat to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    """What was said so far."""
    max_tokens: Count | None = None
    """The most tokens that are written, in the older spelling."""
    max_completion_tokens: Count | None = None
    """The most tokens that are written. Default: as the service says, at most what the window leaves."""
    logprobs: bool | None = None
    """Whether probabilities are told."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of how many of the likeliest tokens at each place."""
    response_format: ResponseFormat | None = None
    """Text."""
    metadata: dict[str, str] | None = None
    """Taken and not looked at."""
    store: bool | None = None
    """Taken and not looked at: nothing is kept."""
    parallel_tool_calls: bool | None = None
    """Taken and not looked at: there are no tools."""


def prompts(service: Service, form: Completion) -> list[list[int]]:
    """The prompts as tokens."""
    if form.suffix:
        raise wrong("These models write at the end of a text alone; leave suffix out.", "suffix", "unsupported")
    if form.best_of not in (None, form.n or 1):
        raise wrong("best_of can only be as large as n here; leave it out.", "best_of", "unsupported")
    given: Any = form.prompt
    several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return [tokens(service, one, place) for place, one in enumerate(several)]


def tokens(service: Service, prompt: str | list[int], place: int, param: str = "prompt") -> list[int]:
    """One prompt, which must leave room for a token at least."""
    tokenizer, window = service.tokenizer, service.opened.window
    if isinstance(prompt, str):
        found: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
        if not found and tokenizer.bos_token_id is not None:
            found = [int(tokenizer.bos_token_id)]  # an empty prompt: anything may come
    else:
        found = prompt
        if min(found) < 0 or max(found) >= service.vocabulary:
            raise wrong(
                f"Prompt {place} is no list of this model's tokens: they are numbers from 0 to "
                f"{service.vocabulary - 1}. Send a text instead.",
                "prompt",
            )
    if not found:
        raise wrong(f"Prompt {place} is empty. Say something for the model to go on with.", "prompt")
    most = min(window - 1, service.limits.input_tokens or window)
    if len(found) > most:
        raise too_long(place, len(found), most, param)
    return found


def try_template(service: Service) -> None:
    """Refuses to serve with a `generation.chatTemplate` that could not write even the shortest chat."""
    if service.serving.spec.generation.chat_template is None or service.opened.task != "CausalLM":
        return
    remedy = "Correct the template, or leave it out for the model's own."
    try:
        _written(service, [{"role": "user", "content": "Hello."}])
    except TemplateSyntaxError as error:
        message = (
            f"generation.chatTemplate is no Jinja template: line {error.lineno}: {str(error.message).rstrip('.')}."
        )
        raise Refusal("Settings", "ChatTemplateBroken", message, remedy) from error
    except Exception as error:
        message = f"generation.chatTemplate cannot write a chat of one message: {str(error).rstrip('.')}."
        raise Refusal("Settings", "ChatTemplateBroken", message, remedy) from error


def _written(service: Service, messages: list[dict[str, Any]]) -> Any:
    """A chat as the template of the service writes it, or that of the model."""
    return service.tokenizer.apply_chat_template(
        messages,
        chat_template=service.serving.spec.generation.chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )


def chat_prompt(service: Service, form: Chat) -> list[int]:
    """The chat as the template writes it."""
    template = service.serving.spec.generation.chat_template
    if template is None and not service.tokenizer.chat_template:
        raise wrong(
            f"{service.opened.name!r} has no chat template, so it cannot read messages. Ask /v1/completions, or set "
            "generation.chatTemplate of the service.",
            "messages",
            "no_chat_template",
        )
    try:
        text = _written(service, [message.told() for message in form.messages])
    except Exception as error:  # whatever the author of the template has not thought of
        raise wrong(f"The chat template does not take these messages: {error}", "messages") from error
    ids: list[int] = service.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens(service, ids or text, 0, "messages")


def asks(
    service: Service, form: Sampling, prompts: Sequence[list[int]], new: int | None, logprobs: int | None
) -> list[Ask]:
    """The texts to write: `n` for each prompt. Each has a seed of its own, made of that of the request."""
    spec = service.serving.spec.generation
    seed = form.seed if form.seed is not None else int.from_bytes(os.urandom(6), "little")
    stop = [form.stop] if isinstance(form.stop, str) else form.stop or []
    if any(not word for word in stop):
        raise wrong("A stop word is empty; leave it out.", "stop")

    def given(value: Any, default: Any) -> Any:
        return default if value is None else value

    return [
        Ask(
            prompt=prompt,
            new=min(given(new, spec.max_new_tokens), service.opened.window - len(prompt)),
            temperature=float(given(form.temperature, spec.temperature)),
            top_p=float(given(form.top_p, spec.top_p)),
            top_k=given(form.top_k, spec.top_k),
            seed=(abs(seed), int(seed < 0), place, choice),
            stop=tuple(stop),
            frequency_penalty=form.frequency_penalty or 0.0,
            presence_penalty=form.presence_penalty or 0.0,
            bias=_bias(service, form.logit_bias or {}),
            logprobs=logprobs,
            ignore_end=form.ignore_eos,
        )
        for place, prompt in enumerate(prompts)
        for choice in range(form.n or 1)
    ]


def _bias(service: Service, given: dict[str, float]) -> dict[int, float]:
    found = {}
    for token, added in given.items():
        if not token.isdecimal() or len(token) > 9 or int(token) >= service.vocabulary:
            raise wrong(f"logit_bias: {token!r} is no token of this model.", "logit_bias")
        found[int(token)] = added
    return found
