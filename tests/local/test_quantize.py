"""A QuantizeJob on a laptop waits for the TrainingJob beside it, and shows both models side by side."""

from __future__ import annotations

from typing import Any

SMALL = """\
apiVersion: lmops.dev/v1alpha1
kind: QuantizeJob
metadata:
  name: small
spec:
  model:
    from: {trainingJob: {name: reviews}}
  steps:
  - quantize: {method: Dynamic}
  output: {uri: pvc://models/small}
"""
MODEL = "pvc://models/reviews/0123456789ab"


def test_a_job_and_the_one_that_makes_its_model_are_applied_together(laptop: Any) -> None:
    laptop.write("small.yaml", SMALL)

    code, out, err = laptop.lmops("apply", "-f", "small.yaml", "-f", "reviews.yaml")

    model = laptop.home / "volumes/models/small/111111111111"
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()[-15:]] == [
        "quantizejob/small   compress  started",
        "quantizejob/small   compress  3.92x smaller, 2.00x faster, f1 -0.003: passed",
        "                        original     compressed",
        "runs in              safetensors           onnx",
        "on disk                    91 MB          23 MB                 3.92x smaller",
        "non-zero weights          22.7 M         22.7 M",
        "latency, 1 x 128         20.0 ms        10.0 ms                  2.00x faster",
        "f1                         0.810          0.807     -0.003 (-0.009 to +0.002)",
        "same predictions                          99.0%        0.990 (0.980 to 1.000)",
        "  verdict   3.92x smaller, 2.00x faster, f1 -0.003: passed",
        "            ok: 3.92x smaller, and minSizeRatio is 5",
        f"  model     {model} (23 MB)",
        f"  report    {model}/report.html",
        "  next      lmops local describe quantizejob/small",
        "            lmops local logs quantizejob/small",
    ]
    status = laptop.resource("quantizejob/small")["status"]
    assert (status["source"]["uri"], status["source"]["name"]) == (MODEL, "reviews")
    assert status["display"]["verdict"] == "Passed"


def test_alone_it_says_what_it_waits_for_and_goes_on_once_that_is_there(laptop: Any, eventually: Any) -> None:
    laptop.write("small.yaml", SMALL)
    waiting = laptop.start("apply", "-f", "small.yaml")
    eventually(lambda: "SourceMissing" in laptop.lmops("get", "qj")[1])
    laptop.lmops("apply", "-f", "reviews.yaml")

    out, _ = waiting.communicate(timeout=90)

    assert waiting.returncode == 0
    assert "quantizejob/small   compress  3.92x smaller, 2.00x faster, f1 -0.003: passed" in out


def test_a_loss_too_small_to_be_seen_has_no_sign_of_one(laptop: Any) -> None:
    laptop.write("small.yaml", SMALL.replace("{trainingJob: {name: reviews}}", f"{{uri: {MODEL}}}"))

    _, out, _ = laptop.lmops("apply", "-f", "small.yaml", QUALITY="-0.0003")

    assert "     +0.000 (-0.009 to +0.002)" in out
    assert "f1 +0.000" in laptop.lmops("get", "qj")[1]


def test_a_model_that_is_slower_is_said_to_be_slower(laptop: Any) -> None:
    laptop.write("small.yaml", SMALL.replace("{trainingJob: {name: reviews}}", f"{{uri: {MODEL}}}"))

    _, out, _ = laptop.lmops("apply", "-f", "small.yaml", MILLISECONDS="76.9")

    (latency,) = [line.split("  ") for line in out.splitlines() if line.startswith("latency")]
    assert [word.strip() for word in latency if word] == ["latency, 1 x 128", "20.0 ms", "76.9 ms", "3.85x slower"]


def test_a_compression_that_outgrows_its_memory_is_killed_and_told_what_to_raise(laptop: Any) -> None:
    limited = SMALL.replace("  steps:", "  resources: {perNode: {memory: 150Mi}}\n  steps:")
    laptop.write("small.yaml", limited.replace("{trainingJob: {name: reviews}}", f"{{uri: {MODEL}}}"))

    code, out, _ = laptop.lmops("apply", "-f", "small.yaml", MEMORY="all")

    assert code == 1
    assert "  failed    OutOfMemory/OOMKilled" in out.splitlines()
    assert [line for line in out.splitlines() if "150Mi of memory" in line]
    assert "  remedy    Raise resources.perNode.memory." in out.splitlines()
    assert not (laptop.home / "volumes/models/small").exists()


def test_the_report_of_a_model_that_was_there_before_is_the_jobs_own(laptop: Any) -> None:
    laptop.write("small.yaml", SMALL.replace("{trainingJob: {name: reviews}}", f"{{uri: {MODEL}}}"))
    model = laptop.home / "volumes/models/small/111111111111"
    model.mkdir(parents=True)
    (model / "report-small.html").touch()

    _, out, _ = laptop.lmops("apply", "-f", "small.yaml")

    assert [line for line in out.splitlines() if line.startswith("  report ") and line.endswith("report-small.html")]


def test_a_model_that_does_not_keep_its_limits_fails_the_command(laptop: Any) -> None:
    laptop.write("small.yaml", SMALL.replace("{trainingJob: {name: reviews}}", f"{{uri: {MODEL}}}"))

    code, out, _ = laptop.lmops("apply", "-f", "small.yaml", VERDICT="NotPassed")

    assert code == 1
    ended = out.splitlines().index("  failed    Verdict/NotPassed")
    assert out.splitlines()[ended : ended + 4] == [
        "  failed    Verdict/NotPassed",
        "  message   3.92x smaller, 2.00x faster, f1 -0.003: not passed.",
        "  evidence  3.92x smaller, and minSizeRatio is 5",
        "  remedy    Compress more, or loosen minSizeRatio; status.report has the figures.",
    ]
    assert [line for line in out.splitlines()[:ended] if line.startswith("on disk") and line.endswith("3.92x smaller")]
    assert [line for line in out.splitlines()[ended:] if line.startswith("  report ") and line.endswith("report.html")]
    assert laptop.resource("quantizejob/small")["status"]["model"]["uri"] == "pvc://models/small/111111111111"
