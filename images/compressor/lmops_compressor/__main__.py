"""`python -m lmops_compressor compress DOCUMENT` compresses a model, measures both and publishes the smaller one.

By hand: LMOPS_VOLUMES=folder python -m lmops_compressor compress "$(cat run.json)"
"""

from __future__ import annotations

import argparse
import os
import sys

from pydantic import ValidationError

from lmops.api import Compression, Result
from lmops.api.status import FailureClass
from lmops_trainer import launch
from lmops_trainer.endings import scratch
from lmops_trainer.failures import Refusal, disk_full, failure_of
from lmops_trainer.progress import Progress

REMEDIES: dict[FailureClass, str] = {
    "Disk": "Make it larger, or free some space there. The model that was to be compressed is as it was.",
    "OutOfMemory": "Raise resources.perNode.memory. The model that was to be compressed is as it was.",
}
"""What to do when a compression lacks room: training's remedies speak of checkpoints and batches."""


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when a result or an orderly stop was written, 1 when a failure was."""
    parser = argparse.ArgumentParser("lmops_compressor", description="Runs a QuantizeJob.")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("compress").add_argument("document", help="the run, as one JSON document")
    chosen = parser.parse_args(arguments)
    try:
        run = Compression.model_validate_json(chosen.document)
    except ValidationError as error:
        parser.exit(1, f"The document is not a run: {error}\n")
    return launch.alone("compress", run, compressed, "compress.log")


def compressed(run: Compression, progress: Progress) -> Result:
    """Imports what the run needs once its signals are minded: that takes seconds."""
    os.environ["TQDM_DISABLE"] = "1"  # bars in a log are noise; tqdm reads it when it is imported
    from lmops_compressor.compress import compress

    try:
        return compress(run, progress)
    except Exception as error:
        failed = failure_of(error)
        if failed.class_ == "Disk" and not isinstance(error, Refusal):  # publishing says itself where it was
            failed = failure_of(disk_full(scratch()))
        said_more = isinstance(error, Refusal) and failed.class_ == "OutOfMemory"  # a model that is measured
        if failed.class_ not in REMEDIES or said_more:
            raise
        remedy = REMEDIES[failed.class_]
        raise Refusal(failed.class_, failed.reason, failed.message, remedy, failed.evidence) from error


if __name__ == "__main__":
    sys.exit(main())
