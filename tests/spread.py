"""How pytest-xdist spreads the tests over processes: what shares something costly stays together, the longest is first.

Its own groups are of no use here: version 3.8 marks them in a field that pytest 9 no longer reads.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

CLUSTERS = ("contract", "e2e")
"""Folders whose tests share a cluster."""
MODELS = {"reviews": ("reviews", "classifier", "search"), "gpt2": ("gpt2", "language_model")}
"""Models that several tests of examples use, and words in the names of these tests."""
LONGEST = ("examples of reviews", "e2e", "examples of gpt2", "examples", "compressor", "contract", "trainer", "server")
"""What takes minutes must not be left for the end, when one process has nothing else to do."""


class Spread(LoadScopeScheduling):
    """Hands out groups in the order of `place`."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The tests that one process runs: those of a file, and some by what they share."""
    file, _, name = nodeid.partition("::")
    folder = _folder(nodeid)
    if folder in CLUSTERS:
        return folder
    if folder != "examples" or "admitted" in name:
        return file
    test = name.partition("[")[0]
    shared = (model for model, words in MODELS.items() if any(word in test for word in words))
    return next((f"examples of {model}" for model in shared), nodeid)


def place(nodeid: str) -> int:
    """How early a test is run."""
    names = (group(nodeid), _folder(nodeid))
    return next((LONGEST.index(name) for name in names if name in LONGEST), len(LONGEST))


def _folder(nodeid: str) -> str:
    return nodeid.split("/")[1]
