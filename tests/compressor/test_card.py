"""The card of a compressed model tells how it is run, in lines that run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmops_compressor.report import card
from lmops_compressor.rows import calibration
from lmops_compressor.runners import format_of, opened
from lmops_compressor.source import Source
from lmops_compressor.steps import applied
from measuring import Models, run
from reports import MODEL, model, report

DYNAMIC, MOBILE = {"quantize": {"method": "Dynamic"}}, {"quantize": {"method": "Mobile"}}
HEADS = {"prune": {"method": "Neurons", "heads": 0.5}}
TEXTS = {
    "SequenceClassification": "A text to classify.",
    "CausalLM": "Once upon a time",
    "MaskedLM": "The capital of France is [MASK].",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Models(tmp_path_factory.mktemp("models"), monkeypatch)


def compressed(models: Models, task: str, step: dict[str, Any], folder: Path) -> tuple[Source, str]:
    """A model compressed into a folder, and its card."""
    job = run(models.of(task)[0], steps=[step])
    source = Source.open(job)
    applied(job, source, job.spec.steps or [], lambda: calibration(job, source), folder, lambda _: None)
    figures = report(compressed=model(23_200_000, 13.0, 0.84, format=format_of(folder)))
    return source, card(job, source, MODEL, figures, folder)


def told(source: Source, folder: Path) -> str:
    """What the model answers, by the runner that it was measured by."""
    tokenizer = source.tokenizer()
    row = tokenizer(TEXTS[source.task], return_tensors="np", truncation=True, max_length=source.max_length)
    [scores] = opened(folder, source.task, 1).logits({name: np.asarray(values) for name, values in row.items()})
    if source.task == "SequenceClassification":
        return source.labels[scores.argmax()]
    place = -1 if source.task == "CausalLM" else row["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    return str(tokenizer.decode(int(scores[place].argmax())))


@pytest.mark.parametrize(
    ("task", "step", "runtime"),
    [
        ("SequenceClassification", DYNAMIC, "ONNX Runtime runs it: `pip install onnxruntime transformers`"),
        ("CausalLM", DYNAMIC, "ONNX Runtime runs it"),
        ("MaskedLM", DYNAMIC, "ONNX Runtime runs it"),
        ("SequenceClassification", MOBILE, "ExecuTorch runs it: `pip install executorch transformers`"),
        ("CausalLM", MOBILE, "ExecuTorch runs it"),
        ("MaskedLM", HEADS, "so lmops runs it: `pip install '.[trainer]'`"),
    ],
)
def test_the_lines_of_a_card_say_what_the_model_says(
    models: Models, task: str, step: dict[str, Any], runtime: str, tmp_path: Path
):
    folder = tmp_path / MODEL.uri.rsplit("/", 1)[-1]
    source, text = compressed(models, task, step, folder)
    [lines] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n").splitlines()[-1] == told(source, folder)
    assert runtime in text


@pytest.mark.parametrize(
    ("step", "packages"),
    [
        ({"prune": {"method": "Magnitude"}}, "transformers torch"),
        ({"quantize": {"method": "FP8"}}, "transformers torch compressed-tensors"),
    ],
)
def test_what_stays_safetensors_is_run_as_any_model_is(
    models: Models, step: dict[str, Any], packages: str, tmp_path: Path
):
    folder = tmp_path / MODEL.uri.rsplit("/", 1)[-1]
    _, text = compressed(models, "SequenceClassification", step, folder)
    [lines] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert re.search(r"\[\{'label': '[01]', 'score': 0\.\d+\}\]", done.stdout)
    assert f"`pip install {packages}`" in text


def test_a_card_says_what_the_verdict_was(models: Models, tmp_path: Path):
    _, text = compressed(models, "SequenceClassification", DYNAMIC, tmp_path / "0123")

    assert text.startswith("---\nlibrary_name: onnxruntime\npipeline_tag: text-classification\ntags:\n- lmops\n---\n# ")
    assert "f1 -0.003 (0.843 to 0.840) on 1,061 validation rows: passed.**" in text
    assert "\n- kept: f1 is 0.003 worse, and maxQualityDrop is 0.01\n" in text
    assert "\n| weights on disk | 91 MB | 23.2 MB | 3.92x smaller |\n" in text
    assert "Inputs are read up to 16 tokens. Classes: 0, 1.\n" in text
    assert not re.search(r"\{\{|\{%|\n\n\n", text)
