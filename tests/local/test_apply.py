"""What a user sees of `lmops local apply` and its neighbours, typed at a real terminal's distance: as processes."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

import pytest
import yaml


def test_a_job_runs_to_its_end_and_is_told_in_plain_lines(laptop: Any) -> None:
    code, out, err = laptop.lmops("apply", "-f", "reviews.yaml")

    model = laptop.home / "volumes/models/reviews/0123456789ab"
    assert (code, err) == (0, "")
    assert [text for text in out.splitlines() if " %  step" not in text] == [
        "trainingjob/reviews created",
        "trainingjob/reviews   prepare   started",
        "trainingjob/reviews   prepare   1,012 rows, 2 duplicates dropped, 909 train · 101 validation",
        "trainingjob/reviews   train     started",
        "trainingjob/reviews   train     best f1 0.810 at step 5",
        "trainingjob/reviews   evaluate  started",
        "trainingjob/reviews   evaluate  The model beats the linear baseline: f1 0.810 against 0.770.",
        "on 101 validation rows     model     linear baseline",
        "accuracy                   0.840               0.780",
        "f1                         0.810               0.770",
        "  verdict   The model beats the linear baseline: f1 0.810 against 0.770.",
        f"  model     {model} (22.7 M parameters, 91 MB)",
        f"  report    {model}/report.html",
        "  next      lmops local predict trainingjob/reviews FILE",
        "            lmops local describe trainingjob/reviews",
        "            lmops local logs trainingjob/reviews --stage train",
    ]
    assert re.search(r"train     \d+ %  step \d/5  loss \d\.\d\d  f1 0\.80  0:09 left", out)


def test_another_terminal_sees_the_job_and_its_log_while_it_runs(laptop: Any, eventually: Any) -> None:
    laptop.start("apply", "-f", "reviews.yaml", "--set", "training.steps=300")
    eventually(lambda: laptop.step() > 1)

    _, table, _ = laptop.lmops("get")
    status = laptop.resource()["status"]
    _, log, _ = laptop.lmops("logs", "reviews", "--stage", "train")

    assert table.splitlines()[0].split() == ["NAME", "PHASE", "PROGRESS", "METRIC", "NODES", "REASON", "AGE"]
    assert re.fullmatch(r"reviews   Running   \d+%  +f1=0.80   1/1  +\d+s", table.splitlines()[1])
    assert status["progress"]["runs"]["reviews-train-a0"]["steps"] == 300
    assert status["metrics"]["evaluation"] == {"f1": 0.8}
    assert log.startswith("training with 1 process\nstep 1\n")


def test_ctrl_c_keeps_the_checkpoint_and_apply_again_goes_on(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", "--set", "training.steps=15")
    eventually(lambda: laptop.step() > 1)
    apply.send_signal(signal.SIGINT)
    out, _ = apply.communicate(timeout=20)
    stopped, runs = laptop.step(), laptop.resource()["status"]["runs"]

    assert apply.returncode == 130
    assert out.splitlines()[-1] == (
        f"trainingjob/reviews   stopped   the checkpoint of step {stopped} is kept; "
        "to go on: lmops local apply -f reviews.yaml --set training.steps=15"
    )
    assert [(run["name"], run["state"], run.get("checkpoint")) for run in runs] == [
        ("reviews-prepare-a0", "Succeeded", None),
        ("reviews-train-a0", "Stopped", stopped),
    ]

    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=15")
    resource = laptop.resource()

    assert code == 0
    assert out.splitlines()[0] == "trainingjob/reviews unchanged"
    assert "trainingjob/reviews   train     attempt 2 started" in out
    assert resource["status"].get("restarts", 0) == 0
    _, log, _ = laptop.lmops("logs", "reviews", "--stage", "train")
    assert log.splitlines()[1] == f"step {stopped + 1}"


def test_a_second_ctrl_c_ends_what_does_not_stop(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", TRAIN="hang")
    eventually(lambda: laptop.step() == 1)
    time.sleep(0.2)
    apply.send_signal(signal.SIGINT)
    told = next(text for text in apply.stdout if "Stopping" in text)
    apply.send_signal(signal.SIGINT)
    apply.communicate(timeout=10)

    assert told == "Stopping: running pods save a checkpoint first. Ctrl-C again ends them at once.\n"
    assert apply.returncode == 130
    assert laptop.resource()["status"]["runs"][-1]["state"] == "Stopped"


def test_a_secret_beside_the_job_is_kept_for_its_owner_alone(laptop: Any) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: hub}\nstringData: {HF_TOKEN: sesame}\n"
    laptop.write("reviews.yaml", (laptop.folder / "reviews.yaml").read_text() + secret)

    code, _, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "credentials.secretName=hub")

    (file,) = laptop.home.glob("secrets/*/*")
    assert (code, file.read_text(), file.stat().st_mode & 0o777) == (0, '{"HF_TOKEN": "sesame"}', 0o600)


def test_a_killed_engine_leaves_nothing_that_the_next_one_does_not_clear(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", "--set", "training.steps=15")
    eventually(lambda: laptop.step() > 1)
    apply.kill()
    apply.wait()
    orphan = yaml.safe_load(next(laptop.home.glob("resources/*/*/*/pods/*master-0/process.json")).read_text())["pid"]

    code, _, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=15")
    runs = laptop.resource()["status"]["runs"]

    assert code == 0
    assert not os.path.exists(f"/proc/{orphan}")
    assert [(run["name"], run["state"], run["reason"]) for run in runs] == [
        ("reviews-prepare-a0", "Succeeded", "Completed"),
        ("reviews-train-a0", "Failed", "NodeLost"),
        ("reviews-train-a1", "Succeeded", "Completed"),
        ("reviews-evaluate-a0", "Succeeded", "Completed"),
    ]


def test_a_second_apply_follows_the_first_and_starts_nothing(laptop: Any, eventually: Any) -> None:
    first = laptop.start("apply", "-f", "reviews.yaml", "--set", "training.steps=40")
    eventually(lambda: laptop.step() > 1)

    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=40")
    first.communicate(timeout=20)

    assert (code, first.returncode) == (0, 0)
    assert "trainingjob/reviews   train     best f1 0.810 at step 5" in out.splitlines()
    assert [(run["name"][-2:], run["state"]) for run in laptop.resource()["status"]["runs"]] == [
        ("a0", "Succeeded")
    ] * 3


def test_a_second_apply_delivers_its_change_and_follows_the_first(laptop: Any, eventually: Any) -> None:
    first = laptop.start("apply", "-f", "reviews.yaml", "--set", "training.steps=400")
    eventually(lambda: laptop.step() > 1)

    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=400", "--set", "suspend=true")
    first.communicate(timeout=20)

    assert out.splitlines()[0] == "trainingjob/reviews configured"
    assert laptop.resource()["status"]["phase"] == "Suspended"
    assert (code, first.returncode) == (0, 0)


def test_a_detached_job_outlives_its_command_and_can_be_deleted(laptop: Any, eventually: Any) -> None:
    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "training.steps=400", "--detach")
    eventually(lambda: laptop.step() > 1)

    deleted, said, _ = laptop.lmops("delete", "tj/reviews")

    assert code == 0
    assert out.splitlines()[-1].endswith("it goes on without this terminal: lmops local get trainingjob/reviews -w")
    assert (deleted, said.splitlines()[-1]) == (
        0,
        "trainingjob/reviews   deleted   its models and checkpoints stay on their volumes",
    )
    assert laptop.lmops("get", "reviews")[0] == 1
    last = laptop.step()
    assert not list(laptop.home.glob("resources/*/*/*"))
    assert laptop.step() == last


def test_a_failure_ends_with_its_evidence_and_remedy(laptop: Any) -> None:
    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", TRAIN="fail")

    assert code == 1
    assert out.splitlines()[-5:] == [
        "trainingjob/reviews   train     failed: LossNotFinite: The loss became NaN at step 1. "
        "The checkpoint of step 1 is kept.",
        "  failed    Diverged/LossNotFinite",
        "  message   The loss became NaN at step 1.",
        "  evidence  step 1 loss nan",
        "  remedy    Lower training.learningRate.",
    ]


def test_a_process_that_outgrows_its_memory_is_killed_and_said_to_be(laptop: Any) -> None:
    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "resources.perNode.memory=150Mi", TRAIN="hog")

    assert code == 1
    assert "  failed    OutOfMemory/OOMKilled" in out.splitlines()
    assert "  message   reviews-train-a0-master-0 needed more than its 150Mi of memory." in out.splitlines()


def test_any_other_sigkill_is_a_lost_worker(laptop: Any) -> None:
    code, out, _ = laptop.lmops("apply", "-f", "reviews.yaml", "--set", "retry.restarts=0", TRAIN="die")

    assert code == 1
    assert "  failed    WorkerLost/PodKilled" in out.splitlines()


def test_a_gpu_that_is_not_there_is_said_and_cpu_goes_on_without(laptop: Any, eventually: Any) -> None:
    words = ("apply", "-f", "reviews.yaml", "--set", "resources.accelerator.perNode=1")
    apply = laptop.start(*words, CUDA_VISIBLE_DEVICES="")
    eventually(lambda: "Unschedulable" in laptop.lmops("get")[1])
    told = [next(text for text in apply.stdout if "Unschedulable" in text).rstrip()]
    apply.send_signal(signal.SIGINT)
    apply.communicate(timeout=10)

    assert apply.returncode == 130
    sentence = "the pod asks for 1 nvidia.com/gpu and this machine has none; add --cpu to run it on the processor"
    assert told == [f"trainingjob/reviews   train     Unschedulable: {sentence}"]
    assert laptop.lmops(*words, "--cpu", CUDA_VISIBLE_DEVICES="")[0] == 0


def test_a_finished_job_is_shown_as_a_cluster_would_and_told_as_a_story(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml")

    resource = laptop.resource()
    _, story, _ = laptop.lmops("describe", "reviews")

    assert list(resource) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert sorted(resource["metadata"]) == ["creationTimestamp", "generation", "name", "namespace", "uid"]
    assert resource["spec"]["training"]["batchSize"] == 32
    assert resource["status"]["phase"] == "Succeeded"
    headings = [text for text in story.splitlines() if re.fullmatch(r"[A-Z]\w+", text)]
    assert headings == ["Conditions", "Runs", "Events", "End"]
    assert "  train     best f1 0.810 at step 5" in story.splitlines()


def test_what_is_said_of_another_namespace_leads_there(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", "-n", "team", "--set", "training.steps=15")
    eventually(lambda: laptop.step() > 1)
    apply.send_signal(signal.SIGINT)
    stopped, _ = apply.communicate(timeout=20)
    code, ended, _ = laptop.lmops("apply", "-f", "reviews.yaml", "-n", "team", "--set", "training.steps=15")

    assert stopped.splitlines()[-1].endswith(
        "to go on: lmops local apply -f reviews.yaml -n team --set training.steps=15"
    )
    assert code == 0
    assert ended.splitlines()[-3:] == [
        "  next      lmops local predict trainingjob/reviews -n team FILE",
        "            lmops local describe trainingjob/reviews -n team",
        "            lmops local logs trainingjob/reviews -n team --stage train",
    ]


def test_an_interrupted_deletion_names_its_files_and_is_gone_on_with(laptop: Any, eventually: Any) -> None:
    apply = laptop.start("apply", "-f", "reviews.yaml", "-n", "team", TRAIN="hang")
    eventually(lambda: laptop.step() == 1)
    delete = laptop.start("delete", "-f", "reviews.yaml", "-n", "team")
    eventually(lambda: "deletionTimestamp" in laptop.lmops("get", "-n", "team", "-o", "yaml")[1])
    refused = laptop.lmops("apply", "-f", "reviews.yaml", "-n", "team")[0]
    for _ in range(2):
        apply.send_signal(signal.SIGINT)
        time.sleep(0.2)
    out, _ = delete.communicate(timeout=20)

    assert refused == 1
    assert out.splitlines()[-1].endswith("; to go on: lmops local delete -f reviews.yaml -n team")


def test_predict_finds_the_model_the_texts_and_the_answers_on_their_volumes(laptop: Any) -> None:
    (laptop.folder / "answers").mkdir()
    (laptop.home / "volumes/models/good").write_text("model ")
    (laptop.home / "volumes/data/x.csv").write_text("texts")
    words = ("pvc://models/good", "pvc://data/x.csv", "-o", "pvc://answers/y.jsonl", "--volume", "answers=answers")

    code, _, err = laptop.lmops("predict", *words)

    assert (code, err, (laptop.folder / "answers/y.jsonl").read_text()) == (0, "", "model texts")


def test_to_follow_what_nothing_works_on_is_one_sentence(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml")

    assert laptop.lmops("logs", "reviews", "-f", "--stage", "prepared") == (
        1,
        "",
        "trainingjob/reviews has no logs of stage prepared yet, and no engine is at work; "
        "`lmops local describe trainingjob/reviews` says why\n",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- kind: TrainingJob", "x.yaml:1: this is not a Kubernetes resource: it has no kind and metadata.name"),
        ("kind: TrainingJob", "x.yaml:1: this is not a Kubernetes resource: it has no kind and metadata.name"),
        ("{kind: Secret, metadata: {name: x}}", "nothing that x.yaml names is here, so there is nothing to delete"),
    ],
)
def test_a_file_that_names_nothing_to_delete_is_one_sentence(laptop: Any, text: str, sentence: str) -> None:
    laptop.write("x.yaml", text)

    assert laptop.lmops("delete", "-f", "x.yaml") == (1, "", f"{sentence}\n")


def test_several_are_deleted_by_one_command(laptop: Any) -> None:
    films = (laptop.folder / "reviews.yaml").read_text().replace("name: reviews", "name: films")
    laptop.write("films.yaml", films)
    laptop.lmops("apply", "-f", "reviews.yaml", "-f", "films.yaml", TRAIN="fail")

    code, out, _ = laptop.lmops("delete", "--ignore-not-found", "tj/reviews", "tj/gone", "tj/films")

    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["trainingjob/reviews", "trainingjob/films"])
    assert not list(laptop.home.glob("resources/*/*/*"))


def test_what_is_not_here_keeps_nothing_else_from_being_deleted(laptop: Any) -> None:
    laptop.lmops("apply", "-f", "reviews.yaml", TRAIN="fail")
    gone = "trainingjob/gone is not here; `lmops local get` lists what is\n"

    code, out, err = laptop.lmops("delete", "tj/gone", "tj/reviews")

    assert (code, err, out.split()[:2]) == (1, gone, ["trainingjob/reviews", "deleted"])
    assert laptop.lmops("delete", "tj/gone", "--ignore-not-found") == (0, "", "")
    assert laptop.lmops("delete", "tj/gone") == (1, "", gone)
    assert laptop.lmops("delete", "tj") == (1, "", "tj: name one resource, as in trainingjob/reviews\n")


def test_help_says_where_things_are_kept_and_how_to_have_them_elsewhere(laptop: Any) -> None:
    told = " ".join(laptop.lmops("--help")[1].split())

    assert "are kept in ~/.lmops, or in the folder that the environment variable LMOPS_HOME names" in told


def test_a_bad_file_is_refused_before_anything_starts(laptop: Any) -> None:
    text = (laptop.folder / "reviews.yaml").read_text().replace("task:", "taks:")
    laptop.write("reviews.yaml", text)

    assert laptop.lmops("apply", "-f", "reviews.yaml") == (
        1,
        "",
        'reviews.yaml:8: spec.model.taks: no such field; did you mean "task"?\n',
    )
    assert not (laptop.home / "resources").exists()


def test_a_volume_is_a_folder_that_is_remembered(laptop: Any) -> None:
    (laptop.folder / "mine").mkdir()
    laptop.lmops("apply", "-f", "reviews.yaml", "--volume", "models=mine")
    (laptop.folder / "mine" / "step").write_text("4")
    laptop.lmops("apply", "-f", "reviews.yaml", "--set", "metadata.name=others")

    assert (laptop.folder / "mine" / "step").read_text() == "5"


def test_a_volume_folder_that_is_not_there_is_one_sentence(laptop: Any) -> None:
    code, _, err = laptop.lmops("apply", "-f", "reviews.yaml", "--volume", "data=nowhere")

    where = laptop.folder / "nowhere"
    assert (code, err) == (1, f"--volume data=nowhere: there is no folder {where}; make it, or correct the path\n")
