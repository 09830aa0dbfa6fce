"""Asks servers as LangChain does: `by_langchain.py WRITER ENCODER MODEL` prints what it was told, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings


def told(writer: str, encoder: str, model: str) -> dict[str, Any]:
    """A chat, a text and embeddings: whole, streamed, in a chain, at once."""
    known: dict[str, Any] = {"model": model, "base_url": f"{writer}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(**known, temperature=0, max_completion_tokens=12, stream_usage=True)
    text = OpenAI(**known, temperature=0, max_tokens=12)
    embeddings = OpenAIEmbeddings(
        model=model, base_url=f"{encoder}/v1", api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    said = [("system", "You are brief."), ("human", "What did the police say?")]
    whole = chat.invoke(said)
    parts = list(chat.stream(said))
    chain = ChatPromptTemplate.from_messages([("system", "You are {how}."), ("human", "{question}")]) | chat
    return {
        "chat": whole.content,
        "usage": whole.usage_metadata,
        "finish": whole.response_metadata["finish_reason"],
        "pieces": [part.content for part in parts],
        "streamedUsage": [part.usage_metadata for part in parts if part.usage_metadata],
        "chain": chain.invoke({"how": "brief", "question": "What did the police say?"}).content,
        "async": asyncio.run(chat.ainvoke(said)).content,
        "text": text.invoke("The police said"),
        "textPieces": list(text.stream("The police said")),
        "batch": text.batch(["The police said", "A man"]),
        "embeddings": embeddings.embed_documents(["a fine film", "a dull film"]),
        "query": embeddings.embed_query("a fine film"),
    }


if __name__ == "__main__":
    print(json.dumps(told(*sys.argv[1:4])))
