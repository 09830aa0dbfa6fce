"""An exception becomes a failure that its owner can act on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lmops_trainer.failures import Refusal, failure_of, is_permanent


def kind(exception: BaseException) -> tuple[str, str]:
    failed = failure_of(exception)
    return failed.class_, failed.reason


def test_a_refusal_keeps_its_words() -> None:
    refusal = Refusal("Data", "UnknownColumn", "reviews.csv has no column 'txt'.", "Use 'text'.", ["columns: id, text"])

    failed = failure_of(refusal)

    assert failed.manifest() == {
        "class": "Data",
        "reason": "UnknownColumn",
        "message": "reviews.csv has no column 'txt'.",
        "evidence": ["columns: id, text"],
        "remedy": "Use 'text'.",
    }


def test_a_refusal_is_found_behind_what_a_library_made_of_it() -> None:
    wrapped = RuntimeError("one of the subprocesses has abruptly died")
    wrapped.__cause__ = Refusal("Data", "EmptyFile", "a.csv is empty.")

    assert kind(wrapped) == ("Data", "EmptyFile")


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/volumes/work/x"), ("Disk", "DiskFull")),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/volumes/work/x"), ("Disk", "DiskFull")),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), ("Disk", "DiskFull")),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), ("Disk", "DiskFull")),
        (RuntimeError("basic_ios::clear: iostream error"), ("Disk", "DiskFull")),
        (OSError(errno.ESTALE, "Stale file handle"), ("Volume", "VolumeError")),
        (PermissionError(errno.EACCES, "Permission denied", "/volumes/x"), ("Volume", "PermissionDenied")),
        (MemoryError(), ("OutOfMemory", "OutOfMemory")),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), ("OutOfMemory", "AcceleratorOutOfMemory")),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ("OutOfMemory", "OutOfMemory")),
        (RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer"), ("Communication", "PeerLost")),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, timeout"), ("Communication", "CommunicationFailed")),
        (ZeroDivisionError("division by zero"), ("Code", "ZeroDivisionError")),
    ],
)
def test_an_exception_has_a_class(exception: BaseException, expected: tuple[str, str]) -> None:
    assert kind(exception) == expected


FULL_CARD = (
    "CUDA out of memory. Tried to allocate 6.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 5.03 GiB is "
    "free. Including non-PyTorch memory, this process has 134.76 GiB memory in use. Of the allocated memory 133.43 GiB "
    "is allocated by PyTorch, and 674.22 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See "
    "documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html)"
)
"""What torch 2.11 says on an H200."""


def test_a_card_that_is_too_small_is_told_in_a_line_with_what_can_be_done() -> None:
    failed = failure_of(torch.OutOfMemoryError(FULL_CARD))

    assert failed.message == (
        "The accelerator ran out of memory: 6.00 GiB more were asked for, and of its 139.80 GiB 5.03 GiB were free."
    )
    capped = failure_of(torch.OutOfMemoryError(FULL_CARD.replace("is free. ", "is free. 61.04 MiB allowed; ")))
    assert capped.message.endswith(": 6.00 GiB more were asked for, and this process may have 61.04 MiB.")
    assert failed.evidence[0] == "CUDA out of memory."
    assert not any("PYTORCH_CUDA_ALLOC_CONF" in line or "documentation" in line for line in failed.evidence)
    assert failed.remedy.endswith("or take an accelerator with more memory.")


def test_a_full_disk_names_the_path_and_the_bytes_that_are_free(tmp_path: object) -> None:
    failed = failure_of(OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/checkpoint-5/model.safetensors"))

    assert f"{tmp_path}/checkpoint-5/model.safetensors could not be written" in failed.message
    assert "bytes free" in failed.message


def test_a_path_on_a_volume_is_told_as_the_uri_that_its_owner_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMOPS_VOLUMES", str(tmp_path))

    failed = failure_of(OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/work/run/checkpoint-5"))

    assert "pvc://work/run/checkpoint-5 could not be written" in failed.message
    assert str(tmp_path) not in failed.message


def test_a_fault_of_the_program_shows_the_end_of_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        os.stat(str(1 / 0))

    failed = failure_of(caught.value)

    assert failed.evidence[-1] == "ZeroDivisionError: division by zero"
    assert any("test_failures.py" in line for line in failed.evidence)


def test_long_texts_are_cut_so_that_the_failure_is_valid() -> None:
    failed = failure_of(Refusal("Data", "R" * 200, "m" * 9000, "r" * 9000, ["e" * 3000] * 50))

    assert (len(failed.reason), len(failed.message), len(failed.remedy)) == (128, 4096, 4096)
    assert [len(line) for line in failed.evidence] == [1024] * 20


def test_only_what_another_try_can_get_past_is_tried_again_in_the_same_pod() -> None:
    assert is_permanent(failure_of(Refusal("Model", "NotAModel", "It is no model.")))
    assert is_permanent(failure_of(OSError(errno.ENOSPC, "No space left on device")))
    assert not is_permanent(failure_of(RuntimeError("gloo: Connection closed by peer")))
