"""What each route answers with, as the OpenAPI document tells it; that it does is tested from without."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmops_server.writing import Finish

Chance = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]


class Told(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Wrong(Told):
    """What is wrong, in the words of OpenAI's protocol."""

    message: str
    """A sentence that says what to do."""
    type: str
    """Its kind."""
    param: str | None
    """The field that is wrong."""
    code: str | None
    """A word that programs look for."""


class Refused(Told):
    """A refusal in OpenAI's shape."""

    error: Wrong
    """What is wrong."""


class RefusedByKServe(Told):
    """A refusal in KServe's shape."""

    error: str
    """What is wrong, and what to do."""


class Alive(Told):
    """That the server lives, by KServe's V1 protocol."""

    status: Literal["alive"]
    """So it does."""


class Live(Told):
    """That the server lives, by KServe's V2 protocol."""

    live: Literal[True]
    """So it does."""


class Ready(Told):
    """Whether the server takes requests."""

    ready: bool
    """False once it is asked to end."""
    status: Literal["ready", "ending"]
    """The same in a word."""


class Card(Told):
    """The model, as OpenAI's clients read it."""

    id: str
    """Its name in requests."""
    object: Literal["model"]
    """What this is."""
    created: int
    """When the server has begun, in seconds since 1970."""
    owned_by: str
    """Who serves it."""


class NamedCard(Card):
    """The model, as clients of OpenAI and of KServe's V1 protocol read it."""

    name: str
    """Its name in requests."""
    ready: bool
    """Whether it takes requests."""


class Cards(Told):
    """The models, as clients of OpenAI and of KServe's V1 protocol read them."""

    object: Literal["list"]
    """What this is."""
    data: list[Card]
    """The one model."""
    models: list[str]
    """Its name."""


class Server(Told):
    """The server, by KServe's V2 protocol."""

    name: str
    """lmops."""
    version: str
    """Of lmops."""
    extensions: list[str]
    """What of the protocol's extensions it knows."""


class TensorForm(Told):
    """A tensor that goes in or comes out."""

    name: str
    """Its name."""
    datatype: Literal["BYTES", "FP32", "INT64"]
    """What it is of."""
    shape: list[int]
    """Its dimensions; -1 is any."""


class Properties(Told):
    """What the protocol has no field for."""

    task: str
    """What the model is made for."""
    labels: list[str]
    """The names of its classes."""
    window: int
    """How many tokens it reads."""


class Metadata(Told):
    """The model, by KServe's V2 protocol."""

    name: str
    """Its name in requests."""
    versions: list[str]
    """Its digest."""
    platform: str
    """The format of its weights, and the engine."""
    inputs: list[TensorForm]
    """What goes in."""
    outputs: list[TensorForm]
    """What comes out."""
    properties: Properties
    """What the protocol has no field for."""


class ModelReady(Told):
    """That the model takes requests."""

    name: str
    """Its name."""
    ready: Literal[True]
    """So it does."""


class ServedModel(Told):
    """The model that is served."""

    uri: str
    """Where it lies."""
    digest: str | None
    """Of its files."""
    task: str
    """What it is made for."""
    labels: list[str]
    """The names of its classes."""


class Engine(Told):
    """What runs the model."""

    name: str
    """The engine."""
    artefact: str
    """The format of the weights."""
    device: str
    """Where they are."""


class Passport(Told):
    """What the model came from, and what it is worth."""

    service: dict[str, Any]
    """The service."""
    model: ServedModel
    """The model."""
    engine: Engine
    """What runs it."""
    window: int
    """How many tokens it reads."""
    generation: dict[str, Any] | None
    """How it writes by default."""
    passport: dict[str, Any]
    """The model's own lmops.json, without its sample."""


class Latency(Told):
    """Seconds from a request to the end of its answer."""

    p50: float | None
    """The median."""
    p95: float | None
    """Of twenty requests nineteen were faster."""
    p99: float | None
    """Of a hundred, ninety-nine."""


class Pace(Told):
    """Rate and latency of the last minute."""

    seconds: int
    """How long that minute is."""
    requests: Natural
    """How many were answered, refused or abandoned."""
    requestsPerSecond: float  # noqa: N815
    """The same by the second."""
    failed: Natural
    """By a fault of the server."""
    refused: Natural
    """For what they said, or because the server was full."""
    tokensPerSecond: float  # noqa: N815
    """Tokens written."""
    latencySeconds: Latency  # noqa: N815
    """Of those that were answered."""
    working: Natural
    """Inputs that wait or are worked on now."""
    draining: bool
    """Whether the server is about to end."""
    drift: dict[str, Any]
    """What is read and told beside what the model was tested with, or why that is not told."""


class Class(Told):
    """The class of a text."""

    label: str
    """The likeliest."""
    confidence: Chance
    """Its probability."""
    probabilities: dict[str, Chance]
    """Of each class, the likeliest first."""
    truncated: Literal[True] = True
    """Told where the text was longer than the model reads."""


class Word(Told):
    """A word for a mask."""

    token: str
    """The word."""
    probability: Chance
    """How likely it is."""


class Masks(Told):
    """The masks of a text."""

    masks: list[list[Word]]
    """Words for each, the likeliest first."""


class Vector(Told):
    """A text as a vector of length 1."""

    embedding: list[float]
    """The vector."""


class Generated(Told):
    """A text that went on."""

    generated: str
    """What was written."""
    finish_reason: Finish
    """Why it ends."""


class Predictions(Told):
    """The answers to instances, in their order."""

    predictions: list[Class] | list[Masks] | list[Vector] | list[Generated]
    """As the model's task has it."""


class OutputTensor(Told):
    """A tensor of the answer."""

    name: str
    """Its name."""
    datatype: Literal["BYTES", "FP32", "INT64"]
    """What it is of."""
    shape: list[Natural]
    """Its dimensions."""
    data: list[str] | list[float]
    """Its values, row by row."""


class Inferred(Told):
    """The answer in tensors."""

    model_name: str
    """The model."""
    id: str
    """That of the request."""
    outputs: list[OutputTensor]
    """The tensors that were wanted."""


class Read(Told):
    """Tokens that were read."""

    prompt_tokens: Natural
    """How many."""
    total_tokens: Natural
    """The same."""


class IndexedClass(Class):
    """The class of a text among several."""

    index: Natural
    """Which of the inputs."""


class IndexedMasks(Masks):
    """The masks of a text among several."""

    index: Natural
    """Which of the inputs."""


class Classified(Told):
    """The classes of texts."""

    object: Literal["list"]
    """What this is."""
    data: list[IndexedClass]
    """One for each input."""
    model: str
    """The model."""
    usage: Read
    """Tokens that were read."""


class Filled(Told):
    """Words for the masks of texts."""

    object: Literal["list"]
    """What this is."""
    data: list[IndexedMasks]
    """One for each input."""
    model: str
    """The model."""
    usage: Read
    """Tokens that were read."""


class Embedding(Told):
    """A text as a vector among several."""

    object: Literal["embedding"]
    """What this is."""
    index: Natural
    """Which of the inputs."""
    embedding: list[float] | str
    """The vector; as base64 its numbers have four bytes each."""


class Embedded(Told):
    """Texts as vectors."""

    object: Literal["list"]
    """What this is."""
    data: list[Embedding]
    """One for each input."""
    model: str
    """The model."""
    usage: Read
    """Tokens that were read."""


class Tokens(Told):
    """A text as tokens."""

    object: Literal["tokens"]
    """What this is."""
    index: Natural
    """Which of the inputs."""
    count: Natural
    """How many they are."""
    tokens: list[Natural]
    """Their numbers."""
    text: list[str]
    """How they read."""


class Tokenized(Told):
    """Texts as tokens."""

    object: Literal["list"]
    """What this is."""
    data: list[Tokens]
    """One for each input."""
    model: str
    """The model."""
    window: int
    """How many tokens the model reads."""


class Used(Told):
    """Tokens that were read and written."""

    prompt_tokens: Natural
    """Read."""
    completion_tokens: Natural
    """Written."""
    total_tokens: Natural
    """Both."""


class Scores(Told):
    """Probabilities of the tokens of a text."""

    tokens: list[str]
    """The tokens."""
    token_logprobs: list[float]
    """The logarithm of each one's probability."""
    top_logprobs: list[dict[str, float]]
    """The likeliest at each place."""
    text_offset: list[Natural]
    """Where each begins in the text."""


class Choice(Told):
    """A text of several."""

    index: Natural
    """Which."""
    text: str
    """What was written; of a stream the next piece."""
    logprobs: Scores | None
    """Where they were asked for."""
    finish_reason: Finish | None
    """Why it ends; of a stream null before its last piece."""


class Written(Told):
    """What every answer of a language model begins with."""

    id: str
    """A name of its own."""
    created: int
    """When, in seconds since 1970."""
    model: str
    """The model."""
    system_fingerprint: str
    """The beginning of its digest."""


class Completed(Written):
    """Texts that went on."""

    object: Literal["text_completion"]
    """What this is."""
    choices: list[Choice]
    """`n` for each prompt."""
    usage: Used | None = None
    """Tokens; of a stream in its last event, where that is asked for."""


class Alternative(Told):
    """A token with its probability."""

    token: str
    """The token."""
    logprob: float
    """The logarithm of its probability."""
    bytes: list[Natural] | None
    """Null for a part of a character."""


class ScoredToken(Alternative):
    """A token with those that were likeliest in its place."""

    top_logprobs: list[Alternative]
    """The likeliest."""


class ChatScores(Told):
    """Probabilities of the tokens of a message."""

    content: list[ScoredToken]
    """The tokens."""
    refusal: None
    """Nothing is refused by the model."""


class Reply(Told):
    """A message of the model."""

    role: Literal["assistant"]
    """Who says it."""
    content: str
    """What it says."""
    refusal: None
    """Nothing is refused by the model."""


class Turn(Told):
    """A message of several."""

    index: Natural
    """Which."""
    message: Reply
    """The message."""
    logprobs: ChatScores | None
    """Where they were asked for."""
    finish_reason: Finish
    """Why it ends."""


class Chatted(Written):
    """The answer to a chat."""

    object: Literal["chat.completion"]
    """What this is."""
    choices: list[Turn]
    """`n` of them."""
    usage: Used
    """Tokens."""


class Delta(Told):
    """The next piece of a message."""

    role: Literal["assistant"] = "assistant"
    """In the first piece."""
    content: str
    """What it says."""


class ChunkTurn(Told):
    """The next piece of a message of several."""

    index: Natural
    """Which."""
    delta: Delta
    """The piece."""
    logprobs: ChatScores | None
    """Where they were asked for."""
    finish_reason: Finish | None
    """Why it ends; null before its last piece."""


class Chunk(Written):
    """An event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    """What this is."""
    choices: list[ChunkTurn]
    """One; none in the event that tells the usage."""
    usage: Used | None = None
    """Tokens, in the last event, where that is asked for."""
