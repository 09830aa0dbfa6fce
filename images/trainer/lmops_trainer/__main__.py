"""`python -m lmops_trainer prepare|train|evaluate DOCUMENT` runs one stage; `predict MODEL FILE` asks a trained model.

On one CPU:  python -m lmops_trainer train "$(cat run.json)"
On N nodes, on each:  PET_NNODES=N PET_NPROC_PER_NODE=8 PET_RDZV_BACKEND=c10d PET_RDZV_ID=run1 \
    PET_RDZV_ENDPOINT=first-node:29400 python -m lmops_trainer train "$(cat run.json)"
"""

from __future__ import annotations

import argparse
import os
import sys

from pydantic import ValidationError

from lmops.api import Result, Run
from lmops_trainer import predict
from lmops_trainer.progress import Progress


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when a result or an orderly stop was written, 1 when a failure was."""
    parser = argparse.ArgumentParser("lmops_trainer", description="Runs one stage of a TrainingJob, or asks its model.")
    stages = parser.add_subparsers(dest="stage", required=True)
    for stage in ("prepare", "train", "evaluate"):
        stages.add_parser(stage).add_argument("document", help="the run, as one JSON document")
    predict.add_arguments(stages.add_parser("predict"))
    chosen = parser.parse_args(arguments)
    if chosen.stage == "predict":
        return predict.main(chosen)
    try:
        run = Run.model_validate_json(chosen.document)
    except ValidationError as error:
        parser.exit(1, f"The document is not a run: {error}\n")
    from lmops_trainer import launch

    if chosen.stage == "prepare":
        return launch.alone("prepare", run, prepared)
    if chosen.stage == "evaluate":
        return launch.alone("evaluate", run, evaluated)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return launch.rank(run)
    return launch.together(run, chosen.document)


def prepared(run: Run, progress: Progress) -> Result:
    """Imports what the stage needs once its signals are minded: that takes seconds."""
    from lmops_trainer.prepare import prepare

    return prepare(run, progress)


def evaluated(run: Run, progress: Progress) -> Result:
    """As `prepared`."""
    from lmops_trainer.evaluate import evaluate

    return evaluate(run, progress)


if __name__ == "__main__":
    sys.exit(main())
