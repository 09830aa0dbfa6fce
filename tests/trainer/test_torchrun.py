"""One rank runs by itself, several under torchrun."""

from __future__ import annotations

import pytest

from lmops_trainer.torchrun import is_alone


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, True),
        ({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "1"}, True),
        ({"PET_NPROC_PER_NODE": "2"}, False),
        ({"PET_NNODES": "2:2", "PET_RDZV_BACKEND": "c10d"}, False),
        ({"PET_NNODES": "1", "PET_RDZV_BACKEND": "c10d", "PET_MAX_RESTARTS": "3"}, False),
        ({"PET_MAX_RESTARTS": "3"}, False),
    ],
)
def test_a_rank_is_alone_where_there_is_no_other_and_nobody_heals_it(environment: dict[str, str], alone: bool):
    assert is_alone(environment) is alone
