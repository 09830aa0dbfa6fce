"""`python -m lmops_compressor compress DOCUMENT`: says what it was told, and reports what a test expects.

The variable VERDICT says how the model is judged; without it the model passes. QUALITY says what it has gained, and
MILLISECONDS how long its calls take. With MEMORY it takes ever more of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FIGURES = {"sizeBytes": 91_000_000, "parameters": 22_700_000, "nonZeroParameters": 22_700_000}
MOMENT = {"batchSize": 1, "length": 128, "p95Milliseconds": 30.0, "rowsPerSecond": 50.0}


def report(verdict: str) -> dict[str, Any]:
    """What the compression was worth."""
    original = {**FIGURES, "format": "safetensors", "latency": [{**MOMENT, "p50Milliseconds": 20.0}]}
    small = {
        **FIGURES,
        "format": "onnx",
        "sizeBytes": 23_200_000,
        "latency": [{**MOMENT, "p50Milliseconds": float(os.environ.get("MILLISECONDS", 10))}],
    }
    passed = verdict == "Passed"
    return {
        "method": "Dynamic 8 bit",
        "split": "validation",
        "rows": 101,
        "threads": 1,
        "metric": "f1",
        "original": {**original, "metrics": {"f1": 0.81}},
        "compressed": {**small, "metrics": {"f1": 0.807}},
        "sizeRatio": 3.92,
        "latencyRatio": 0.5,
        "change": f"f1 {float(os.environ.get('QUALITY', -0.003)):+z.3f}",
        "quality": {"value": float(os.environ.get("QUALITY", -0.003)), "low": -0.009, "high": 0.002},
        "agreement": {"value": 0.99, "low": 0.98, "high": 1.0},
        "confidence": 0.95,
        "verdict": verdict,
        "checks": [{"limit": "minSizeRatio", "kept": passed, "sentence": "3.92x smaller, and minSizeRatio is 5"}],
        "sentence": f"3.92x smaller, 2.00x faster, f1 -0.003: {'passed' if passed else 'not passed'}",
    }


def main(document: dict[str, Any]) -> int:
    """Leaves its ending."""
    print("compresses", json.dumps(document["source"]), flush=True)
    taken = []
    while "MEMORY" in os.environ:
        taken.append(bytearray(os.urandom(1 << 20) * 8))
        time.sleep(0.02)
    digest = "sha256:" + "1" * 64
    model = {"uri": "pvc://models/small/111111111111", "digest": digest, "sizeBytes": 23_200_000, "parameters": 22}
    result = {"model": model, "report": report(os.environ.get("VERDICT", "Passed"))}
    ending = {"stage": "compress", "attempt": document["run"].get("attempt", 0), "result": result}
    Path(os.environ["LMOPS_TERMINATION_LOG"]).write_text(json.dumps(ending))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[2])))
