"""What holds for every job and every history: valid manifests, a valid status, one child at a time, and an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import schemas
from builders import RESULTS, SETTINGS, World, ended_pod, manifest, pod, said, trainingjob
from lmops.api import TrainingJobStatus
from lmops.api.crd import KINDS, resource_schema
from lmops.jobs.failure import CLASSES
from lmops.plan import Manifest, Ref
from lmops.settings import Settings
from lmops.training.work import STAGES

SCHEMA = resource_schema(KINDS[0])["properties"]
SPEC, STATUS = schemas.validator(SCHEMA["spec"]), schemas.validator(SCHEMA["status"])
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields, each set or not."""
    return st.fixed_dictionaries({}, optional=fields)


names = st.from_regex(r"[a-z]([-a-z0-9]{0,34}[a-z0-9])?", fullmatch=True)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
claims = st.sampled_from(["data", "models", "a.b-c", "0"])
volumes = st.builds("pvc://{}/{}".format, claims, st.from_regex(r"[a-z0-9*._-]{0,12}", fullmatch=True))
uris = st.one_of(volumes, st.sampled_from(["hf://google/bert-tiny", "hf://nyu-mll/glue@main"])).filter(
    lambda uri: "/.." not in uri
)
columns = some(text=words, pair=st.one_of(words, st.integers(0, 9)), classes=st.dictionaries(words, st.just("<=0")))
rows = some(
    split=words, format=st.sampled_from(["jsonl", "csv", "parquet", "text"]), columns=columns, header=st.booleans()
)
sources = st.builds(lambda row, uri: {**row, "uri": uri}, rows, uris)
train_rows = st.one_of(
    sources,
    st.builds(lambda row, several: {**row, "uris": several}, rows, st.lists(uris, min_size=1, max_size=3)),
    st.builds(lambda row, several: {**row, "sources": several}, rows, st.lists(sources, min_size=1, max_size=3)),
)
datasets = st.builds(
    lambda train, more: {"train": train, **more},
    train_rows,
    some(
        validation=st.one_of(st.just({"holdOut": {"fraction": 0.2}}), sources.map(lambda own: {"from": own})),
        test=st.one_of(st.just({"fraction": 0.1, "groupBy": "author"}), sources),
        maxLength=st.integers(8, 131072),
        longTexts=st.sampled_from(["Truncate", "Windows", "Refuse"]),
    ),
)
tasks = st.sampled_from(["SequenceClassification", "CausalLM", "MaskedLM", "BertPreTraining"])
models = st.one_of(
    st.builds(lambda uri, task: {"from": {"uri": uri}, "task": task, "freeze": "Encoder"}, uris, tasks),
    st.builds(
        lambda task, setting: {
            "from": {"architecture": {"name": "bert", "config": {"hidden_size": setting}}},
            "tokenizer": {"train": {}},
            "task": task,
        },
        tasks,
        st.one_of(st.integers(1, 1024), words),
    ),
)
trainings = st.one_of(
    some(epochs=st.floats(0.1, 100), batchSize=st.integers(1, 512), learningRate=st.floats(1e-7, 1)),
    some(steps=st.integers(1, 10**6), warmupSteps=st.integers(0, 100), seed=st.integers(0, 2**32 - 1)),
    some(earlyStopping=some(patience=st.integers(1, 9)), precision=st.sampled_from(["fp32", "fp16", "bf16"])),
)
resources = some(
    nodes=st.integers(1, 64),
    processesPerNode=st.integers(1, 16),
    perNode=some(cpu=st.sampled_from([1, 2.5, "500m", "16"]), memory=st.sampled_from(["512Mi", "4Gi", 10**9, "1.5Gi"])),
    accelerator=some(name=st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"]), perNode=st.integers(1, 8)),
)
specs = st.builds(
    lambda required, optional: {**required, **optional},
    st.fixed_dictionaries({"model": models, "dataset": datasets, "output": st.fixed_dictionaries({"uri": volumes})}),
    some(
        training=trainings,
        resources=resources,
        retry=some(restarts=st.integers(0, 100), deadlineSeconds=st.integers(1, 10**6)),
        workspace=st.fixed_dictionaries({"uri": volumes}),
        credentials=st.just({"secretName": "hub"}),
        suspend=st.booleans(),
        pod=some(
            labels=st.just({"team": "nlp"}),
            tolerations=st.just([{"operator": "Exists"}]),
            affinity=st.just({"podAffinity": {}}),
            imagePullSecrets=st.just(["registry"]),
            env=st.just([{"name": "NCCL_DEBUG", "value": "$(HOME)"}]),
        ),
        queueName=st.just("gpu"),
        ttlSecondsAfterFinished=st.integers(0, 10**6),
    ),
).filter(lambda spec: "/.." not in str(spec))


@settings(PATIENT, max_examples=40)
@given(names, specs, st.integers(0, 120), st.sampled_from([SETTINGS, Settings(user=None)]))
def test_any_job_is_rendered_into_what_an_api_server_takes(
    name: str, spec: dict[str, Any], attempt: int, by: Settings
) -> None:
    job = trainingjob(name, **spec)
    children = [manifest(job, stage, attempt, by) for stage in STAGES]

    assert schemas.problems(job.spec.manifest(), SPEC) == []
    assert children == [manifest(job, stage, attempt, by) for stage in STAGES]
    assert all(len(child["metadata"]["name"]) <= 63 - len("-worker-63") for child in children)
    for child in children:
        schemas.check(child)


Move = Callable[[World], None]

ENDINGS = ("result", "failure", "stopped", "nothing", "cut short", "of an earlier attempt")
checkpoints = st.none() | st.integers(0, 3)


def newest(world: World) -> tuple[str, int] | None:
    """Stage and attempt of the child that was created last, where it is still there."""
    child = next(reversed(world.children.values()), None)
    labels = child["metadata"]["labels"] if child else {}
    return (labels["lmops.dev/stage"], int(labels["lmops.dev/attempt"])) if child else None


def message(stage: str, attempt: int, ending: str, class_: str, checkpoint: int | None) -> str:
    """A termination message as a runtime leaves it, or as little of it as is left."""
    failure = {"class": class_, "reason": "Any", "message": "It ended.", "remedy": "-", "evidence": ["a line"]}
    whole = said(stage, attempt, checkpoint, result=RESULTS[stage])
    return {
        "result": whole,
        "failure": said(stage, attempt, checkpoint, failure=failure),
        "stopped": said(stage, attempt, checkpoint, stopped={"signal": "SIGTERM", "step": checkpoint}),
        "nothing": "",
        "cut short": whole[:40],
        "of an earlier attempt": said(stage, max(0, attempt - 1), checkpoint, result=RESULTS[stage]),
    }[ending]


def a_pod_waits(index: int, status: Manifest) -> Move:
    """A pod is there, and has not begun."""
    return lambda world: _put(world, index, lambda stage, attempt: pod(world.job, stage, attempt, index, **status))


def a_pod_runs(index: int) -> Move:
    """A pod begins."""

    def running(world: World, stage: str, attempt: int) -> Manifest:
        state = {"running": {"startedAt": world.now.isoformat()}}
        up = pod(world.job, stage, attempt, index, phase="Running", containerStatuses=[{"state": state}])
        return {**up, "metadata": {**up["metadata"], "creationTimestamp": world.now.isoformat()}}

    return lambda world: _put(world, index, lambda stage, attempt: running(world, stage, attempt))


def a_pod_ends(index: int, code: int, ending: str, class_: str, checkpoint: int | None, status: Manifest) -> Move:
    """A pod ends, with an exit code, a last word, and what the kubelet says of it."""
    return lambda world: _put(
        world,
        index,
        lambda stage, attempt: ended_pod(
            world.job, stage, attempt, index, code, message(stage, attempt, ending, class_, checkpoint), **status
        ),
    )


def _put(world: World, index: int, made: Callable[[str, int], Manifest]) -> None:
    if found := newest(world):
        new = made(*found)
        world.pods[new["metadata"]["name"]] = new


def a_queue_holds(held: bool) -> Move:
    """Kueue takes the place of the newest child back, pods and all, or lets it go."""

    def holds(world: World) -> None:
        if world.children:
            ref, child = list(world.children.items())[-1]
            policy = {"runPolicy": {**child["spec"]["runPolicy"], "suspend": held}} if ref.kind == "PyTorchJob" else {}
            world.children[ref] = {**child, "spec": {**child["spec"], **(policy or {"suspend": held})}}
            if held:
                world.pods.clear()

    return holds


def a_pod_is_replaced(world: World) -> None:
    """Somebody deletes a pod, and its controller puts a new one in its place."""
    for name, there in list(world.pods.items())[:1]:
        born = {"creationTimestamp": world.now.isoformat()}
        world.pods[name] = {**there, "metadata": {**there["metadata"], **born}, "status": {"phase": "Pending"}}


def a_pod_vanishes(world: World) -> None:
    """A pod is gone without a word."""
    for name in list(world.pods)[:1]:
        del world.pods[name]


def a_child_says(type_: str) -> Move:
    """The controller of the newest child has come to its end."""

    def says(world: World) -> None:
        if world.children:
            child = list(world.children.values())[-1]
            shown = "Complete" if child["kind"] == "Job" and type_ == "Succeeded" else type_
            end = {"type": shown, "status": "True", "lastTransitionTime": world.now.isoformat()}
            child["status"] = {"conditions": [end]}

    return says


def everything_is_deleted(world: World) -> None:
    """Someone deletes all children, and the cluster their pods."""
    world.children.clear()
    world.pods.clear()


def everything_leaves(world: World) -> None:
    """Someone deletes all children, which are not gone yet."""
    for thing in (*world.children.values(), *world.pods.values()):
        thing["metadata"] = {**thing["metadata"], "deletionTimestamp": world.now.isoformat()}


def suspend_is(value: bool) -> Move:
    """The owner suspends the job, or lets it go on."""

    def edits(world: World) -> None:
        world.job = world.job.model_copy(update={"spec": world.job.spec.model_copy(update={"suspend": value})})

    return edits


def time_passes(seconds: int) -> Move:
    """Time passes."""
    return lambda world: world.pass_time(seconds=seconds)


def the_status_is_not_written(world: World) -> None:
    """The operator dies between an act and its status, and starts again."""
    written = world.job
    world.reconcile()
    world.job = written


successes = st.builds(a_pod_ends, st.just(0), st.just(0), st.just("result"), st.just("Code"), checkpoints, st.just({}))
moves: st.SearchStrategy[Move] = st.one_of(
    st.builds(a_pod_runs, st.integers(0, 1)),
    st.builds(
        a_pod_waits,
        st.integers(0, 1),
        st.sampled_from(
            [
                {},
                {"phase": "Pending"},
                {
                    "phase": "Pending",
                    "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node " * 40}],
                },
                {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
                {"phase": "Unknown", "containerStatuses": []},
            ]
        ),
    ),
    st.builds(
        a_pod_ends,
        st.integers(0, 1),
        st.sampled_from([0, 1, 137, 143]),
        st.sampled_from(ENDINGS),
        st.sampled_from(sorted(CLASSES)),
        checkpoints,
        st.sampled_from(
            [{}, {}, {}, {"why": "OOMKilled"}, {"reason": "Evicted"}, {"reason": "NodeLost", "phase": "Failed"}]
        ),
    ),
    # the way to an end, so that walks often come to one
    successes,
    successes,
    successes,
    st.builds(a_child_says, st.sampled_from(["Succeeded", "Failed", "Running"])),
    st.builds(a_queue_holds, st.booleans()),
    st.just(a_pod_is_replaced),
    st.just(a_pod_vanishes),
    st.just(everything_is_deleted),
    st.just(everything_leaves),
    st.builds(suspend_is, st.booleans()),
    st.builds(time_passes, st.sampled_from([1, 61, 200, 4000])),
    st.just(the_status_is_not_written),
)


def watched(world: World) -> None:
    """One reconcile, with what must hold of each."""
    there = dict(world.children)
    plan = world.reconcile()

    assert schemas.problems(plan.status.manifest(), STATUS) == []
    assert TrainingJobStatus.model_validate(plan.status.manifest()) == plan.status
    assert len(plan.create) <= 1
    for child in plan.create:
        assert Ref.of(child) not in there
        assert stays(there, child["metadata"]["labels"]["lmops.dev/stage"]) == []
    assert set(plan.delete) <= set(there)


def stays(children: dict[Ref, Manifest], stage: str) -> list[str]:
    """The children of a stage that nobody has deleted."""
    return [
        ref.name
        for ref, child in children.items()
        if child["metadata"]["labels"]["lmops.dev/stage"] == stage and "deletionTimestamp" not in child["metadata"]
    ]


@settings(PATIENT, max_examples=300)
@given(st.integers(1, 2), some(restarts=st.integers(0, 3), deadlineSeconds=st.just(3000)), st.lists(moves, max_size=25))
def test_any_history_keeps_the_status_valid_and_comes_to_rest(
    nodes: int, retry: dict[str, Any], history: list[Move]
) -> None:
    world = World(trainingjob(resources={"nodes": nodes}, retry=retry))
    for move in history:
        watched(world)
        move(world)
    world.settle()
    rest = world.job.status
    event(f"{rest.phase}, {len(world.created)} children")

    plan = world.reconcile()

    assert schemas.problems(rest.manifest(), STATUS) == []
    assert (plan.status, plan.create, plan.delete, plan.events) == (rest, (), (), ())
