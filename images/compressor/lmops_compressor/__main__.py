"""`python -m lmops_compressor compress DOCUMENT` compresses a model, measures both and publishes the smaller one.

By hand: LMOPS_VOLUMES=folder python -m lmops_compressor compress "$(cat run.json)"
"""

from __future__ import annotations

import argparse
import os
import sys

from pydantic import ValidationError

from lmops.api import Compression, Result
from lmops_trainer import launch
from lmops_trainer.progress import Progress


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

    return compress(run, progress)


if __name__ == "__main__":
    sys.exit(main())
