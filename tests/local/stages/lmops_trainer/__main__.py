"""`python -m lmops_trainer STAGE DOCUMENT`: counts steps, saves each as a checkpoint, and goes on from the last one.

The variable TRAIN says what befalls the training: nothing, `fail`, `hog` (of memory), `die` (by SIGKILL)
or `hang` (deaf to SIGTERM).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SPLIT = {"rows": 9, "examples": 9, "tokens": 90}
RESULTS: dict[str, Any] = {
    "prepare": {
        "dataset": {
            "uri": "pvc://models/reviews/.lmops/data/0",
            "hash": "0",
            "rowsRead": 1012,
            "dropped": {"duplicate": 2},
            "train": {**SPLIT, "rows": 909},
            "validation": {**SPLIT, "rows": 101},
        }
    },
    "train": {"best": {"step": 5, "metric": "f1", "value": 0.81}},
    "evaluate": {
        "model": {
            "uri": "pvc://models/reviews/0123456789ab",
            "digest": "sha256:" + "0" * 64,
            "sizeBytes": 90_900_000,
            "parameters": 22_700_000,
        },
        "evaluation": {
            "split": "validation",
            "rows": 101,
            "metrics": {"accuracy": 0.84, "f1": 0.81},
            "baseline": {"accuracy": 0.78, "f1": 0.77},
            "beatsBaseline": True,
            "verdict": "The model beats the linear baseline: f1 0.810 against 0.770.",
        },
    },
}


def main(stage: str, document: dict[str, Any]) -> int:
    """Runs a stage and leaves its ending."""
    ending = {"stage": stage, "attempt": document["run"].get("attempt", 0)}
    if stage == "train":
        ending |= train(document)
    if "failure" not in ending and "stopped" not in ending:
        ending["result"] = RESULTS[stage]
    Path(os.environ["LMOPS_TERMINATION_LOG"]).write_text(json.dumps(ending))
    return int("failure" in ending)


def train(document: dict[str, Any]) -> dict[str, Any]:
    """Counts to `training.steps`; a SIGTERM ends it after the next step."""
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    print("training with", os.environ["PET_NPROC_PER_NODE"], "process", flush=True)
    file = Path(os.environ["LMOPS_VOLUMES"]) / "models" / "step"
    step, steps = int(file.read_text()) if file.exists() else 0, document["spec"]["training"]["steps"]
    while step < steps:
        time.sleep(0.05)
        step += 1
        file.write_text(str(step))
        print("step", step, flush=True)
        post(step, steps)
        if stops:
            return {"stopped": {"signal": "SIGTERM", "step": step}, "checkpoint": step}
        if trouble := befall(os.environ.get("TRAIN", "")):
            return trouble
    return {"checkpoint": step}


def befall(what: str) -> dict[str, Any]:
    """Carries the accident out that the test asks for."""
    if what == "fail":
        why = {"class": "Diverged", "reason": "LossNotFinite", "message": "The loss became NaN at step 1."}
        return {"failure": {**why, "evidence": ["step 1 loss nan"], "remedy": "Lower training.learningRate."}}
    if what == "hog":
        hoard = []
        for _ in range(40):
            hoard.append(b"x" * 20_000_000)
            time.sleep(0.05)
    if what == "hang":
        time.sleep(60)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def post(step: int, steps: int) -> None:
    """Reports a step."""
    figures = {"current_step": step, "total_steps": steps, "checkpoint_step": step, "loss": 1 / step, "eval_f1": 0.8}
    metrics = [{"name": name, "value": str(value)} for name, value in figures.items()]
    body = {
        "trainerStatus": {"progressPercentage": 100 * step // steps, "estimatedRemainingSeconds": 9, "metrics": metrics}
    }
    url, data = os.environ["KUBEFLOW_TRAINER_SERVER_URL"], json.dumps(body).encode()
    urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})).close()


def predict(model: str, file: str, _: str, out: str) -> int:
    """Writes down what the model's and the text's files say."""
    paths = [Path(os.environ["LMOPS_VOLUMES"]) / place.removeprefix("pvc://") for place in (model, file, out)]
    paths[2].write_text(paths[0].read_text() + paths[1].read_text())
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "predict":
        sys.exit(predict(*sys.argv[2:]))
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
