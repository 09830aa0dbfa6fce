"""A model in a process of its own: what it answers, how it ends, and what is said when it ends too early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lmops_compressor import answers, energy
from lmops_compressor.batches import Batches, written
from lmops_compressor.comparison import Scored
from lmops_compressor.measure import started
from lmops_compressor.process import ModelProcess, _environment, ended
from lmops_compressor.rows import scored
from lmops_compressor.source import Source
from lmops_trainer.failures import Refusal
from measuring import Models, run


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelProcess]:
    """A small classifier's."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("models")
        uri, _ = Models(root, monkeypatch).of()
        job = run(uri)
        source = Source.open(job)
        told = Scored.written(scored(job, source), root / "rows")
        with started("original", source.folder, job, source, told, (1, 8)) as running:
            yield running


def test_it_tells_seconds_and_memory_of_its_own(process: ModelProcess):
    seconds = process.ask("time", batch_size=4, length=16, calls=3)["seconds"]

    assert len(seconds) == 3
    assert all(0 < each < 60 for each in seconds)
    assert process.ask("memory")["bytes"] >= psutil.Process(process.pid).memory_info().rss


def test_what_it_cannot_do_is_a_sentence_and_it_goes_on(process: ModelProcess):
    with pytest.raises(Refusal, match=r"The original model could not be measured\. IndexError") as refusal:
        process.ask("score", batch=99, into="nowhere.npz")

    assert refusal.value.class_ == "Code"
    assert process.ask("memory")["bytes"] > 0


def test_one_that_is_killed_is_told_by_its_signal(process: ModelProcess):
    """The last test of this process."""
    os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(Refusal, match="The process that measured the original model was ended by SIGKILL") as refusal:
        process.ask("time", batch_size=1, length=8)

    assert refusal.value.class_ == "WorkerLost"


@pytest.mark.parametrize(
    ("code", "out_of_memory", "class_", "said"),
    [
        (
            -9,
            True,
            "OutOfMemory",
            "The compressed model needed more memory than the limit, and was killed.",
        ),
        (-9, False, "WorkerLost", "The process that measured the compressed model was ended by SIGKILL."),
        (-11, True, "Code", "The process that measured the compressed model was ended by SIGSEGV."),
        (3, False, "Code", "The process that measured the compressed model was ended by exit code 3."),
    ],
)
def test_how_it_ended_tells_why(code: int, out_of_memory: bool, class_: str, said: str):
    refusal = ended("compressed", code, out_of_memory, ["the last line"])

    assert (refusal.class_, refusal.message, refusal.evidence) == (class_, said, ["the last line"])


def test_a_folder_that_cannot_be_loaded_is_a_sentence(tmp_path: Path):
    batches = written([{"input_ids": np.ones((1, 2))}], tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")

    with pytest.raises(Refusal, match="The original model could not be measured") as refusal:
        ModelProcess("original", tmp_path / "model", "CausalLM", 1, batches, (1, 2))

    assert refusal.value.class_ == "Model"


BARS = """
import sys, types
from lmops_compressor.__main__ import compressed

def compress(run, progress):
    from tqdm import tqdm
    return list(tqdm(range(3), desc="a library's own"))

sys.modules["lmops_compressor.compress"] = types.SimpleNamespace(compress=compress)
compressed(None, None)
"""


def test_bars_of_libraries_are_not_in_the_log():
    done = subprocess.run([sys.executable, "-c", BARS], env=_environment(1), capture_output=True, text=True, check=True)

    assert done.stderr == ""


PARENT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from lmops_compressor.batches import Batches
from lmops_compressor.process import ModelProcess

ModelProcess.ask = lambda self, *_, **__: print(self.pid, flush=True) or time.sleep(600)
ModelProcess("original", Path(sys.argv[1]), "CausalLM", 1, Batches.open(Path(sys.argv[1])), (1, 2))
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_its_parent(tmp_path: Path, by: signal.Signals):
    written([{"input_ids": np.ones((1, 2))}], tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert parent.stdout
    worker = psutil.Process(int(parent.stdout.readline()))

    parent.send_signal(by)
    parent.wait(30)

    worker.wait(30)
    parent.stdout.close()


def test_batches_come_back_as_they_were_written(tmp_path: Path):
    given = [
        {"input_ids": np.arange(6).reshape(2, 3), "labels": np.array([1, 0])},
        {"input_ids": np.arange(8).reshape(1, 8), "labels": np.array([7])},
    ]
    written(given, tmp_path)

    found = Batches.open(tmp_path)

    assert [{name: values.tolist() for name, values in batch.items()} for batch in found] == [
        {name: values.tolist() for name, values in batch.items()} for batch in given
    ]


def test_targets_are_worked_on_in_parts_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = np.random.default_rng(3)
    logits, others = drawn.normal(size=(2, 3, 5, 7)).astype(np.float32)
    labels = drawn.integers(7, size=(3, 5))
    labels[0, 1:4] = labels[2] = answers.IGNORED
    answers.tokens(others, labels, keep=tmp_path / "logs.npy")
    whole = answers.tokens(logits, labels, beside=tmp_path / "logs.npy")
    monkeypatch.setattr(answers, "SCORES", 14)

    parts = answers.tokens(logits, labels, beside=tmp_path / "logs.npy")

    expected = np.exp(answers.log_softmax(others)) * (answers.log_softmax(others) - answers.log_softmax(logits))
    assert {name: values.tolist() for name, values in parts.items()} == {
        name: pytest.approx(values.tolist()) for name, values in whole.items()
    }
    assert parts["divergence"] == pytest.approx((expected.sum(-1) * (labels >= 0)).sum(1), abs=1e-5)
    assert parts["counts"].tolist() == [2, 5, 0]


def test_a_package_counts_joules_over_wraps_of_its_counter(tmp_path: Path):
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, which counts what the package counts too
    (domain / "max_energy_range_uj").write_text("9999999\n")
    (domain / "energy_uj").write_text("9000000\n")
    (meter,), note = energy.meters(tmp_path)
    before = meter()

    (domain / "energy_uj").write_text("1500000\n")

    assert meter() - before == pytest.approx(2.5)
    assert note == "Energy is that of the whole machine, whatever else ran on it."


def test_without_counters_there_is_a_reason(tmp_path: Path):
    assert energy.meters(tmp_path) == (
        [],
        f"Energy was not measured: this machine has no RAPL counters below {tmp_path}.",
    )
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    (domain / "max_energy_range_uj").symlink_to("max_energy_range_uj")  # a file that may not be read, for root too

    meters, note = energy.meters(tmp_path)

    assert meters == []
    assert note.startswith("Energy was not measured: the RAPL counters cannot be read (")


class Card:
    """One of two GPUs, as NVML tells of it."""

    NVMLError = OSError

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.joules = {"GPU-ours": 40.0, "GPU-other": 7000.0}
        monkeypatch.setitem(sys.modules, "pynvml", self)
        properties = SimpleNamespace(uuid="ours")
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: properties)

    def nvmlInit(self) -> None:  # noqa: N802
        """Nothing to do."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, card: str) -> float:  # noqa: N802
        return 1e3 * self.joules[card]


def test_of_several_gpus_the_one_that_is_in_use_is_metered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    card = Card(monkeypatch)
    (meter,), note = energy.meters(tmp_path, on_gpu=True)
    before = meter()

    card.joules = {"GPU-ours": 55.0, "GPU-other": 9000.0}

    assert meter() - before == pytest.approx(15)
    assert note == (
        f"Energy is that of the whole GPU, without the processor: this machine has no RAPL counters below {tmp_path}."
    )


def test_a_gpu_without_nvml_has_a_reason_too(tmp_path: Path):
    meters, note = energy.meters(tmp_path, on_gpu=True)

    assert meters or note.startswith("Energy was not measured: NVML does not tell the energy of the GPU (")
