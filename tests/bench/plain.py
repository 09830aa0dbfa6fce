"""The server that one writes by hand: FastAPI around a pipeline of transformers. `plain.py MODEL TASK PORT`"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Question(BaseModel):
    """What is asked."""

    input: str
    max_tokens: int = 32


def main(model: str, task: str, port: int) -> None:
    """Serves until it is told to end. FastAPI runs `def` routes in threads, and a model takes one at a time."""
    torch.set_grad_enabled(False)
    ask, app, alone = pipeline(task, model=model), FastAPI(), threading.Lock()

    @app.post("/ask")
    def answer(question: Question) -> Any:
        with alone:
            if task == "text-classification":
                return ask(question.input, truncation=True)
            return ask(question.input, max_new_tokens=question.max_tokens, do_sample=False, return_full_text=False)

    @app.get("/health")
    def health() -> str:
        return "ok"

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
