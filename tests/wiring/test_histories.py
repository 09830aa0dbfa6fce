"""Random histories of a spec against its last version alone (row 13), and hands that meddle with children (row 11)."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import Any

import pytest

from lives import KEY, Life, submit, succeeds

SPECS: list[dict[str, Any]] = [
    {},
    {"training": {"epochs": 3}},
    {"resources": {"nodes": 2}, "output": {"uri": "pvc://shared/reviews"}},
    {
        "model": {"from": {"uri": "pvc://models/gpt2"}, "task": "CausalLM"},
        "dataset": {"train": {"uri": "pvc://data/a.txt"}},
    },
]


class History(Life):
    """A job whose user changes her mind."""

    def __init__(self, dice: random.Random, last: int) -> None:
        super().__init__(succeeds, **SPECS[dice.randrange(len(SPECS))])
        turns = sorted(dice.sample(range(30), dice.randint(1, 6)))
        for turn in turns[:-1]:
            self.at[turn] = dice.choice(
                [self.suspend, self.resume, lambda: self.submit_anew(dice.randrange(len(SPECS)))]
            )
        self.at[turns[-1]] = lambda: self.submit_anew(last)
        if dice.random() < 0.5:
            self.at[turns[-1] + dice.randint(1, 15)] = self.suspend
        self.at[turns[-1] + 20] = self.resume

    def suspend(self) -> None:
        self._patch({"suspend": True})

    def resume(self) -> None:
        self._patch({"suspend": False})

    def submit_anew(self, spec: int) -> None:
        """Deletes the job and creates it with another spec."""
        self.store.delete(KEY)
        submit(self.store, **SPECS[spec])

    def _patch(self, spec: dict[str, Any]) -> None:
        self.store.patch(KEY, {"spec": spec})


def children(life: Life) -> dict[str, str]:
    """The children by stage, without what counts attempts and objects."""
    counted = re.compile(
        r'(?<=-a)\d+|(?<=lmops.dev/attempt": ")\d+|(?<=\\"attempt\\":)\s*\d+|uid-\d+|(?<=\.)[0-9a-f-]{36}'
    )
    return {
        child["metadata"]["labels"]["lmops.dev/stage"]: counted.sub(
            "#", json.dumps([child["metadata"]["labels"], child["metadata"]["ownerReferences"], child["spec"]])
        )
        for child in sorted(life.store.of("Job", "PyTorchJob"), key=lambda child: child["metadata"]["name"])
    }


@cache
def applied(spec: int) -> tuple[str, dict[str, str]]:
    """How a job ends that was never changed."""
    life = Life(succeeds, **SPECS[spec]).run()
    return life.status["phase"], children(life)


@pytest.mark.parametrize("batch", range(20))
def test_row_13_after_any_history_there_is_what_the_last_spec_alone_would_have_made(batch: int):
    for number in range(25):
        dice = random.Random(batch * 25 + number)
        last = dice.randrange(len(SPECS))
        life = History(dice, last).run(400)

        assert (life.status["phase"], children(life)) == applied(last), f"history {batch * 25 + number}"


def test_row_11_an_edited_child_is_neither_repaired_nor_restarted():
    life = Life()

    def edit() -> None:
        name = ("PyTorchJob", "default", "reviews-train-a0")
        patch = {"metadata": {"labels": {"team": "x"}}, "spec": {"nprocPerNode": "8"}}
        life.store.patch(name, patch, manager="kubectl-edit")

    life.at[12] = edit
    life.run()

    child = life.store.objects["PyTorchJob", "default", "reviews-train-a0"]
    assert (child["spec"]["nprocPerNode"], child["metadata"]["labels"]["team"]) == ("8", "x")
    assert (life.status["phase"], life.status["restarts"], life.outcome()["made"]["reviews-train-a0"]) == (
        "Succeeded",
        0,
        1,
    )


def test_row_11_a_child_whose_owner_was_taken_away_is_not_adopted_again():
    life = Life()

    def orphan() -> None:
        child = life.store.objects["PyTorchJob", "default", "reviews-train-a0"]
        life.store.put({**child, "metadata": {**child["metadata"], "ownerReferences": []}})

    life.at[12] = orphan
    life.run()

    assert life.store.objects["PyTorchJob", "default", "reviews-train-a0"]["metadata"]["ownerReferences"] == []
    assert life.outcome()["made"]["reviews-train-a0"] == 1
