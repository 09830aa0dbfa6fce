"""The clients that people use, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import environments


def run(script: Path, *arguments: str) -> Any:
    """What a script of one of the clients prints: JSON."""
    done = subprocess.run([python(), script, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def python() -> Path:
    """The interpreter that has them. They do not go with what the server is made of: KServe's wants an older psutil.

    A laptop may go without; the checks that guard the main branch may not.
    """
    try:
        return environments.python("clients")
    except environments.AbsentError as absent:
        message = f"THE CLIENTS ARE NOT TESTED: {absent}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)
