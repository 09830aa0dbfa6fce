"""From raw files to what a model reads: rows, cleaned, split, tokenised, and kept for the next job."""

from lmops_trainer.data.prepared import Prepared
from lmops_trainer.data.rows import Row

__all__ = ["Prepared", "Row"]
