"""Every rule of a spec, with a spec that keeps it, one that breaks it, and the sentence that its owner reads."""

from __future__ import annotations

from typing import Any, NamedTuple

Fields = dict[str, Any]


class Case(NamedTuple):
    """A rule: where it speaks, what it says, sections that keep it, and sections that break it."""

    place: str
    message: str
    kept: Fields
    broken: Fields
    kind: str = "TrainingJob"

    def __str__(self) -> str:
        return f"{self.kind} {self.place}: {self.message}"


FOLDER = {"uri": "pvc://models/minilm"}
SCRATCH = {"architecture": {"name": "bert"}}
WORDS = {"train": {"vocabularySize": 300}}
OUTSIDE = "pvc://data/../secrets"
STEPS_OUT = "a URI may not step out of its volume with '..'"
ONE_SOURCE = "set exactly one of uri and uris"
ONE_LABEL = "a source has a label of its own or a label column, not both"
RHYTHM = "set at least one of steps, epochs and minutes"


def model(**fields: Any) -> Fields:
    """A model section."""
    return {"model": {"from": FOLDER, "task": "SequenceClassification", **fields}}


def data(**fields: Any) -> Fields:
    """A dataset section."""
    return {"dataset": {"train": {"uri": "pvc://data/a.csv"}, **fields}}


def train(**fields: Any) -> Fields:
    """A dataset section with these training rows."""
    return data(train=fields)


def source(**fields: Any) -> Fields:
    """A dataset section with one source of training rows."""
    return train(sources=[fields])


def validation(**fields: Any) -> Fields:
    """A dataset section with validation rows of their own."""
    return data(validation={"from": fields})


def settings_of(**fields: Any) -> Fields:
    """A training section."""
    return {"training": fields}


def own(**fields: Any) -> Fields:
    """A trainer of the user's own, without a model and data of ours."""
    trainer = {"image": "registry.example/t:1", "command": ["torchrun", "t.py"], **fields}
    return {"trainer": trainer, "model": None, "dataset": None}


def env(name: str) -> Fields:
    """A pod section with one variable."""
    return {"pod": {"env": [{"name": name, "value": "1"}]}}


MISFORMED: list[tuple[str, Fields, str]] = [
    ("output.uri", {"output": {"uri": "s3://bucket/models"}}, "a URI on a volume: write pvc://claim/folder"),
    (
        "model.from.uri",
        model(**{"from": {"uri": "s3://bucket/minilm"}}),
        "a URI: write pvc://claim/folder or hf://owner/name",
    ),
    (
        "resources.perNode.memory",
        {"resources": {"perNode": {"memory": "20GB"}}},
        "a quantity: write a number such as 2, 500m or 4Gi",
    ),
    (
        "resources.perNode.cpu",
        {"resources": {"perNode": {"cpu": "two"}}},
        "a number of cores: write for instance 2, 0.5 or 500m",
    ),
]
"""Where, what, and the words that say what is accepted there."""
OUTPUT = {"output": {"uri": "pvc://models/smaller"}}
BASES: dict[str, Fields] = {
    "TrainingJob": {**model(), **data(), "output": {"uri": "pvc://models/reviews"}},
    "QuantizeJob": {"model": {"from": FOLDER}, "steps": [{"quantize": {"method": "Dynamic"}}], **OUTPUT},
    "LanguageModelService": {"model": {"from": FOLDER}},
}
"""A spec of each kind that nothing is wrong with."""


def resource(kind: str, sections: Fields) -> Fields:
    """A resource with these sections in its spec."""
    spec = {section: value for section, value in {**BASES[kind], **sections}.items() if value is not None}
    return {"apiVersion": "lmops.dev/v1alpha1", "kind": kind, "metadata": {"name": "reviews"}, "spec": spec}


TRAINING = [
    Case("", "set model, or a trainer of your own", own(), {"model": None}),
    Case("", "set dataset, or a trainer of your own", own(), {"dataset": None}),
    Case("", "a trainer of your own brings its model: leave model out", own(), own() | model()),
    Case("", "a trainer of your own reads its data itself: leave dataset out", own(), own() | data()),
    *(
        Case("", f"a trainer of your own has settings of its own: leave {name} out", own() | kept, own() | broken)
        for name, kept, broken in (
            ("training", settings_of(batchSize=32, reportTo=[]), settings_of(epochs=1)),
            ("training", {}, settings_of(packing=False)),
            ("evaluation", {"evaluation": {"every": {"epochs": 1}}}, {"evaluation": {"metric": "loss"}}),
            ("checkpoint", {"checkpoint": {"keep": 2}}, {"checkpoint": {"every": {"steps": 100}}}),
        )
    ),
    Case(
        "pod",
        "labels that begin with lmops.dev/, training.kubeflow.org/, batch.kubernetes.io/, kueue.x-k8s.io/,"
        " serving.kserve.io/ are set by controllers",
        {"pod": {"labels": {"team": "nlp", "x.example/lmops.dev": "a"}}},
        {"pod": {"labels": {"team": "nlp", "lmops.dev/job": "other"}}},
    ),
    Case(
        "pod",
        "annotations that begin with lmops.dev/, training.kubeflow.org/, batch.kubernetes.io/, kueue.x-k8s.io/,"
        " serving.kserve.io/ are set by controllers",
        {"pod": {"annotations": {"sidecar.istio.io/inject": "false"}}},
        {"pod": {"annotations": {"kueue.x-k8s.io/podset": "x"}}},
    ),
    Case(
        "pod.env[0]",
        "variables that begin with LMOPS_, PET_, TORCHELASTIC_, KUBEFLOW_TRAINER_, MASTER_, RANK, WORLD_SIZE"
        " are the runtime's own",
        env("NCCL_DEBUG"),
        env("RANK"),
    ),
    Case(
        "pod.env[0]",
        "put it into a Secret, and name that in credentials.secretName",
        env("TOKENIZERS_PARALLELISM"),
        env("HF_TOKEN"),
    ),
    Case(
        "model",
        "a model from an architecture needs a tokenizer",
        model(**{"from": SCRATCH}, tokenizer=WORDS),
        model(**{"from": SCRATCH}),
    ),
    Case(
        "model",
        "freeze goes with trained weights: random ones would stay random",
        model(freeze="Encoder"),
        model(**{"from": SCRATCH}, tokenizer=WORDS, freeze="Encoder"),
    ),
    Case(
        "model.from",
        "set exactly one of uri and architecture",
        model(),
        model(**{"from": {**FOLDER, **SCRATCH}}, tokenizer=WORDS),
    ),
    Case("model.from", "set exactly one of uri and architecture", model(), model(**{"from": {}})),
    Case(
        "model.from.uri",
        STEPS_OUT,
        model(**{"from": {"uri": "pvc://models/a..b"}}),
        model(**{"from": {"uri": OUTSIDE}}),
    ),
    Case(
        "model.tokenizer",
        "set exactly one of uri and train",
        model(tokenizer=FOLDER),
        model(tokenizer={**FOLDER, **WORDS}),
    ),
    Case("model.tokenizer", "set exactly one of uri and train", model(tokenizer=WORDS), model(tokenizer={})),
    Case("model.tokenizer.uri", STEPS_OUT, model(tokenizer=FOLDER), model(tokenizer={"uri": OUTSIDE})),
    Case(
        "dataset.train",
        "set exactly one of uri, uris and sources",
        train(uris=["pvc://data/a", "pvc://data/b"]),
        train(uri="pvc://data/a", sources=[{"uri": "pvc://data/b"}]),
    ),
    Case("dataset.train", "set exactly one of uri, uris and sources", train(uri="hf://nyu-mll/glue"), train()),
    Case("dataset.train.uri", STEPS_OUT, train(uri="pvc://data/*.csv"), train(uri=OUTSIDE)),
    Case("dataset.train.uris[1]", STEPS_OUT, train(uris=["pvc://data/a"]), train(uris=["pvc://data/a", OUTSIDE])),
    Case("dataset.train.sources[0]", ONE_SOURCE, source(uri="pvc://data/a"), source()),
    Case(
        "dataset.train.sources[0]",
        ONE_SOURCE,
        source(uris=["pvc://data/a"]),
        source(uri="pvc://data/a", uris=["pvc://data/b"]),
    ),
    Case(
        "dataset.train.sources[0]",
        ONE_LABEL,
        source(uri="pvc://data/a", label="positive", columns={"text": "review"}),
        source(uri="pvc://data/a", label="positive", columns={"label": "stars"}),
    ),
    Case("dataset.train.sources[0].uri", STEPS_OUT, source(uri="pvc://data"), source(uri=OUTSIDE)),
    Case("dataset.train.sources[0].uris[0]", STEPS_OUT, source(uris=["pvc://data"]), source(uris=[OUTSIDE])),
    Case(
        "dataset.validation",
        "set exactly one of from and holdOut",
        data(validation={"holdOut": {"fraction": 0.2}}),
        data(validation={"from": {"uri": "pvc://data/b"}, "holdOut": {}}),
    ),
    Case("dataset.validation", "set exactly one of from and holdOut", data(), data(validation={})),
    Case("dataset.validation.from", ONE_SOURCE, validation(uri="pvc://data/b"), validation()),
    Case(
        "dataset.validation.from",
        ONE_LABEL,
        validation(uri="pvc://data/b", columns={"label": "stars"}),
        validation(uri="pvc://data/b", columns={"label": 1}, label="positive"),
    ),
    Case("dataset.validation.from.uri", STEPS_OUT, validation(uri="pvc://data/b"), validation(uri=OUTSIDE)),
    Case("dataset.validation.from.uris[0]", STEPS_OUT, validation(uris=["pvc://data/b"]), validation(uris=[OUTSIDE])),
    Case(
        "dataset.test",
        "set exactly one of uri, uris and fraction",
        data(test={"fraction": 0.1}),
        data(test={"uri": "pvc://data/c", "fraction": 0.1}),
    ),
    Case(
        "dataset.test",
        "set exactly one of uri, uris and fraction",
        data(test={"uris": ["pvc://data/c"]}),
        data(test={}),
    ),
    Case(
        "dataset.test",
        "stratifyBy goes with fraction",
        data(test={"fraction": 0.1, "stratifyBy": "label"}),
        data(test={"uri": "pvc://data/c", "stratifyBy": "label"}),
    ),
    Case(
        "dataset.test",
        "groupBy goes with fraction",
        data(test={"fraction": 0.1, "groupBy": "author"}),
        data(test={"uri": "pvc://data/c", "groupBy": "author"}),
    ),
    Case("dataset.test.uri", STEPS_OUT, data(test={"uri": "pvc://data/c"}), data(test={"uri": OUTSIDE})),
    Case("dataset.test.uris[0]", STEPS_OUT, data(test={"uris": ["pvc://data/c"]}), data(test={"uris": [OUTSIDE]})),
    Case(
        "dataset.clean.length",
        "length.min is above length.max",
        data(clean={"length": {"min": 5, "max": 5}}),
        data(clean={"length": {"min": 6, "max": 5}}),
    ),
    Case("training", "set only one of epochs and steps", settings_of(steps=5), settings_of(steps=5, epochs=1)),
    Case(
        "training",
        "set only one of warmupRatio and warmupSteps",
        settings_of(warmupSteps=0),
        settings_of(warmupSteps=0, warmupRatio=0),
    ),
    Case(
        "training",
        "microBatchSize is above batchSize",
        settings_of(batchSize=8, microBatchSize=8),
        settings_of(batchSize=8, microBatchSize=9),
    ),
    Case(
        "training", "microBatchSize is above batchSize", settings_of(microBatchSize=32), settings_of(microBatchSize=33)
    ),
    Case(
        "evaluation.every", RHYTHM, {"evaluation": {"every": {"steps": 5, "epochs": 1}}}, {"evaluation": {"every": {}}}
    ),
    Case("checkpoint.every", RHYTHM, {"checkpoint": {"every": {"minutes": 0.5}}}, {"checkpoint": {"every": {}}}),
    Case("workspace.uri", STEPS_OUT, {"workspace": {"uri": "pvc://work/a"}}, {"workspace": {"uri": "pvc://work/../b"}}),
    Case("output.uri", STEPS_OUT, {"output": {"uri": "pvc://models"}}, {"output": {"uri": "pvc://models/.."}}),
]


def steps(*steps: Fields) -> Fields:
    """A list of steps."""
    return {"steps": list(steps)}


def search(*steps: Fields) -> Fields:
    """A search over these steps in one place."""
    return {"steps": None, "search": {"steps": [{"oneOf": list(steps)}]}}


def sourced(**fields: Any) -> Fields:
    """A model section of a QuantizeJob."""
    return {"model": {"from": fields}}


ONE_MODEL = "set exactly one of uri, trainingJob and quantizeJob"
ONE_JOB = "set exactly one of name and selector"
PRUNED = {"prune": {"method": "Wanda"}}
DYNAMIC = {"quantize": {"method": "Dynamic"}}
STEP_RULES: list[tuple[str, str, Fields, Fields]] = [
    ("", "set exactly one of prune and quantize", PRUNED, PRUNED | DYNAMIC),
    ("", "set exactly one of prune and quantize", DYNAMIC, {}),
    *(
        (".prune", message, {"prune": kept}, {"prune": broken})
        for message, kept, broken in [
            (
                "pattern says how many weights go: leave sparsity out",
                {"method": "Wanda", "pattern": "2:4"},
                {"method": "Wanda", "pattern": "2:4", "sparsity": 0.5},
            ),
            (
                "Neurons takes whole neurons out: leave pattern out",
                {"method": "Neurons", "sparsity": 0.25},
                {"method": "Neurons", "pattern": "2:4"},
            ),
            (
                "heads goes with method Neurons",
                {"method": "Neurons", "heads": 0.25},
                {"method": "SparseGPT", "heads": 0.25},
            ),
        ]
    ),
    *(
        (".quantize", message, {"quantize": kept}, {"quantize": broken})
        for message, kept, broken in [
            (
                "bits goes with WeightOnly and MixedPrecision; Dynamic, Static and Mobile are int8",
                {"method": "MixedPrecision", "bits": 6},
                {"method": "Dynamic", "bits": 8},
            ),
            ("WeightOnly has 4 or 8 bits", {"method": "WeightOnly", "bits": 8}, {"method": "WeightOnly", "bits": 6}),
            (
                "groupSize goes with WeightOnly and MixedPrecision",
                {"method": "WeightOnly", "groupSize": 64},
                {"method": "Static", "groupSize": 64},
            ),
            (
                "choices goes with MixedPrecision",
                {"method": "MixedPrecision", "choices": [4, 16]},
                {"method": "WeightOnly", "choices": [4, 8]},
            ),
            (
                "choices names the same bits twice",
                {"method": "MixedPrecision", "choices": [4, 8, 16]},
                {"method": "MixedPrecision", "choices": [4, 4, 8]},
            ),
            (
                "bits is an average: raise it to the fewest of choices at least",
                {"method": "MixedPrecision", "bits": 4.5},
                {"method": "MixedPrecision", "bits": 3},
            ),
            (
                "bits is an average: lower it to the most of choices, or add more bits to choices",
                {"method": "MixedPrecision", "bits": 12, "choices": [4, 16]},
                {"method": "MixedPrecision", "bits": 12},
            ),
        ]
    ),
]
"""The rules of a step, wherever it stands: kept and broken steps."""
CLASHING = {"uri": "pvc://b", "label": "x", "columns": {"label": 1}}
LIMITS = "set at least one of maxQualityDrop, minSizeRatio, maxLatencyRatio, maxMemoryRatio and minAgreement"
QUANTIZATION = [
    Case("", "set exactly one of steps and search", {}, search(DYNAMIC) | steps(DYNAMIC)),
    Case("", "set exactly one of steps and search", search(DYNAMIC), {"steps": None}),
    Case("", "a model is quantized once: keep one quantize step", steps(DYNAMIC), steps(DYNAMIC, DYNAMIC)),
    Case(
        "",
        "what is quantized can be pruned no more: put quantize last",
        steps(PRUNED, DYNAMIC),
        steps(DYNAMIC, PRUNED),
    ),
    *(
        Case(place + where, message, make(kept), make(broken))
        for place, make in (("steps[0]", steps), ("search.steps[0].oneOf[0]", search))
        for where, message, kept, broken in STEP_RULES
    ),
    Case("model.from", ONE_MODEL, sourced(trainingJob={"name": "a"}), sourced(trainingJob={"name": "a"}, **FOLDER)),
    Case("model.from", ONE_MODEL, sourced(**FOLDER), sourced()),
    Case("model.from.uri", STEPS_OUT, sourced(uri="hf://owner/name"), sourced(uri=OUTSIDE)),
    *(
        Case(
            f"model.from.{kind}",
            ONE_JOB,
            sourced(**{kind: {"selector": {"matchLabels": {"team": "nlp"}}}}),
            sourced(**{kind: {}}),
        )
        for kind in ("trainingJob", "quantizeJob")
    ),
    *(
        Case(f"{section}.from{where}", message, {section: {"from": kept}}, {section: {"from": broken}})
        for section in ("calibration", "evaluation")
        for where, message, kept, broken in [
            ("", ONE_SOURCE, {"uri": "pvc://data/b"}, {}),
            (
                "",
                ONE_LABEL,
                {"uri": "pvc://b", "label": "x"},
                {"uri": "pvc://b", "label": "x", "columns": {"label": 1}},
            ),
            (".uri", STEPS_OUT, {"uri": "pvc://data/b"}, {"uri": OUTSIDE}),
            (".uris[0]", STEPS_OUT, {"uris": ["pvc://data/b"]}, {"uris": [OUTSIDE]}),
        ]
    ),
    Case("accept", LIMITS, {"accept": {"minAgreement": 0.9}}, {"accept": {"confidence": 0.95}}),
    *(case for case in TRAINING if case.place in ("pod", "pod.env[0]", "workspace.uri", "output.uri")),
]
DIGEST = f"sha256:{'0' * 64}"


def served(uri: str, **fields: Any) -> Fields:
    """A model section with a model at this place."""
    return {"model": {"from": {"uri": uri}, **fields}}


def scaling(**fields: Any) -> Fields:
    """A scaling section."""
    return {"scaling": fields}


def exposed(**fields: Any) -> Fields:
    """A section with a name outside of the cluster."""
    return {"expose": {"host": "reviews.example.com", **fields}}


def alerted(label: str) -> Fields:
    """A monitoring section with a label for its alerts."""
    return {"monitoring": {"alertLabels": {label: "search"}}}


SERVICE = [
    Case("requestLog.uri", STEPS_OUT, {"requestLog": {"uri": "pvc://logs/a"}}, {"requestLog": {"uri": OUTSIDE}}),
    *(case for case in QUANTIZATION if case.place.startswith("model.from") or case.place.startswith("pod")),
    Case(
        "model",
        "digest pins a model of ours: pin one of the hub by its revision, as in hf://owner/name@revision",
        served("pvc://models/minilm", digest=DIGEST),
        served("hf://owner/name", digest=DIGEST),
    ),
    Case(
        "scaling",
        "maxReplicas is below minReplicas",
        scaling(minReplicas=2, maxReplicas=2),
        scaling(minReplicas=2, maxReplicas=1),
    ),
    *(
        Case(
            "scaling",
            f"{field} goes with maxReplicas: without it the number of replicas is fixed",
            scaling(maxReplicas=2, **{field: value}),
            scaling(minReplicas=2, **{field: value}),
        )
        for field, value in (("metric", "Memory"), ("target", 60))
    ),
    *(
        Case("expose", message, exposed(**kept), exposed(**broken))
        for message, kept, broken in (
            ("set exactly one of ingressClassName and gateway", {"ingressClassName": "nginx"}, {}),
            (
                "set exactly one of ingressClassName and gateway",
                {"gateway": {"name": "web"}},
                {"gateway": {"name": "web"}, "ingressClassName": "nginx"},
            ),
            (
                "a Gateway has the certificates at its listeners: leave tlsSecretName out",
                {"ingressClassName": "nginx", "tlsSecretName": "tls"},
                {"gateway": {"name": "web"}, "tlsSecretName": "tls"},
            ),
            (
                "annotations that begin with lmops.dev/, training.kubeflow.org/, batch.kubernetes.io/,"
                " kueue.x-k8s.io/, serving.kserve.io/ are set by controllers",
                {"ingressClassName": "nginx", "annotations": {"cert-manager.io/issuer": "ours"}},
                {"ingressClassName": "nginx", "annotations": {"lmops.dev/written": "x"}},
            ),
        )
    ),
    Case(
        "rollout",
        "gates go with strategy: Gated",
        {"rollout": {"strategy": "Gated", "gates": {"minAgreement": 0.9}}},
        {"rollout": {"strategy": "Manual", "gates": {"minAgreement": 0.9}}},
    ),
    Case(
        "monitoring",
        "the name of an alert's label is made of letters, digits and _, and begins with no digit",
        alerted("team"),
        alerted("our-team"),
    ),
    Case(
        "monitoring",
        "alerts have the labels alertname, severity, namespace and service by themselves",
        alerted("team"),
        alerted("severity"),
    ),
]
CASES = [
    *TRAINING,
    *(case._replace(kind="QuantizeJob") for case in QUANTIZATION),
    *(case._replace(kind="LanguageModelService") for case in SERVICE),
]

JOBS = ("TrainingJob", "QuantizeJob")
"""The kinds whose spec cannot change."""
EDITS: dict[tuple[str, str], Fields] = {
    ("TrainingJob", "model"): model(task="CausalLM"),
    ("TrainingJob", "dataset"): data(maxLength=64),
    ("TrainingJob", "training"): settings_of(seed=43),
    ("TrainingJob", "evaluation"): {"evaluation": {"metric": "loss"}},
    ("TrainingJob", "checkpoint"): {"checkpoint": {"keep": 3}},
    ("TrainingJob", "resources"): {"resources": {"nodes": 2}},
    ("TrainingJob", "trainer"): own(command=["torchrun", "other.py"]),
    ("QuantizeJob", "model"): {"model": {"from": {"trainingJob": {"name": "reviews"}}}},
    ("QuantizeJob", "steps"): steps({"quantize": {"method": "Static"}}),
    ("QuantizeJob", "search"): search({"quantize": {"method": "Static"}}),
    ("QuantizeJob", "calibration"): {"calibration": {"rows": 64}},
    ("QuantizeJob", "evaluation"): {"evaluation": {"rows": 100}},
    ("QuantizeJob", "accept"): {"accept": {"minSizeRatio": 3.5}},
    ("QuantizeJob", "resources"): {"resources": {"perNode": {"cpu": 2}}},
    **{
        (kind, field): {field: value}
        for kind in JOBS
        for field, value in {
            "workspace": {"uri": "pvc://work/a"},
            "retry": {"restarts": 0},
            "output": {"uri": "pvc://models/other"},
            "credentials": {"secretName": "hub"},
            "pod": {"priorityClassName": "high"},
            "queueName": "gpu",
            "ttlSecondsAfterFinished": 60,
        }.items()
    },
}
"""A section of a spec, and an edit of it or, where there was none, its addition."""
BEFORE: dict[tuple[str, str], Fields] = {
    ("TrainingJob", "trainer"): own(),
    ("QuantizeJob", "search"): search({"quantize": {"method": "Dynamic"}}),
}
"""What the job was before its edit, where that is not the ordinary one."""
