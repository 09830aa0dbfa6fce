"""The report of a compression, as the tests of what is made of it like to say it."""

from __future__ import annotations

from typing import Any

from lmops.api.compressionreport import Change, Check, CompressionReport, Interval, Latency, ModelFigures
from lmops.api.status import ModelReport

MODEL = ModelReport(
    uri="pvc://data/small/0123", digest=f"sha256:{'0' * 64}", size_bytes=23_500_000, parameters=22_700_000
)


def model(size: int, milliseconds: float, f1: float, **changes: Any) -> ModelFigures:
    return ModelFigures(
        **{
            "format": "safetensors",
            "size_bytes": size,
            "parameters": 22_700_000,
            "non_zero_parameters": 22_000_000,
            "latency": [
                Latency(
                    batch_size=1, length=128, p50_milliseconds=milliseconds, p95_milliseconds=2 * milliseconds,
                    rows_per_second=1e3 / milliseconds,
                )
            ],
            "load_seconds": 3.2,
            "peak_memory_bytes": 620_000_000,
            "metrics": {"f1": f1, "accuracy": f1 + 0.01},
            **changes,
        }
    )  # fmt: skip


def check(sentence: str, kept: bool = True) -> Check:
    return Check(limit="a limit", kept=kept, sentence=sentence)


def report(**changes: Any) -> CompressionReport:
    """An int8 model beside its original; keywords replace parts of it."""
    return CompressionReport(
        **{
            "method": "Dynamic 8 bit",
            "changes": [Change(step="Dynamic 8 bit", layers=38, detail="38 of 38 matrices in int8")],
            "split": "validation",
            "rows": 1061,
            "threads": 1,
            "processor": "AMD EPYC (avx2, avx512f, avx512_vnni)",
            "metric": "f1",
            "original": model(91_000_000, 30.0, 0.843),
            "compressed": model(23_200_000, 13.0, 0.84, format="onnx", peak_memory_bytes=250_000_000),
            "size_ratio": 3.92,
            "latency_ratio": 0.4333,
            "memory_ratio": 0.4032,
            "quality": Interval(value=-0.003, low=-0.011, high=0.004),
            "agreement": Interval(value=0.991, low=0.985, high=0.996),
            "confidence": 0.95,
            "verdict": "Passed",
            "checks": [check("f1 is 0.003 worse, and maxQualityDrop is 0.01")],
            "notes": ["Energy was not measured: this machine has no RAPL counters."],
            "sentence": "3.92x smaller, 2.31x faster, f1 -0.003 (0.843 to 0.840) on 1,061 validation rows: passed",
            **changes,
        }
    )
