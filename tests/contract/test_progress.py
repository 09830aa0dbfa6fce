"""The progress endpoint beside a real API server: real tokens, reviews and owners, and no more rights than it needs."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from kubernetes.aio import client, config

from builders import trainingjob
from cluster import operator
from cluster.client import Cluster, Manifest
from cluster.players import Players
from lmops.cluster import Kubernetes
from lmops.progress.secret import SECRET, Certificates
from lmops.progress.server import Server
from lmops.settings import Settings
from lmops_trainer.progress import Progress

HOST = "lmops-progress.lmops-system.svc"


def certificates(account: str, namespace: str) -> list[Manifest]:
    """The right to keep the Secret, and no other Secret."""
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "update"]},
    ]
    return granted("lmops-progress", namespace, account, namespace, rules)


def granted(name: str, namespace: str, account: str, home: str, rules: list[Manifest]) -> list[Manifest]:
    """A Role, and that an account has it."""
    api, metadata = "rbac.authorization.k8s.io", {"name": name, "namespace": namespace}
    role = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": home}
    reference = {"apiGroup": api, "kind": "Role", "name": name}
    binding = {"apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": reference}
    return [role, {**binding, "subjects": [subject]}]


@pytest.fixture(autouse=True)
def cluster_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Service's name leads to this machine."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host == HOST else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


class Pod:
    """A pod of a run as the control plane made it, and the files that a kubelet would give it."""

    def __init__(self, cluster: Cluster, namespace: str, manifest: Manifest, folder: Path) -> None:
        self.cluster, self.namespace, self.manifest, self.folder = cluster, namespace, manifest, folder
        self.name, uid = manifest["metadata"]["name"], manifest["metadata"]["uid"]
        self.own = ("--bound-object-kind=Pod", f"--bound-object-name={self.name}", f"--bound-object-uid={uid}")
        variables = {v["name"]: v["value"] for v in manifest["spec"]["containers"][0]["env"]}
        self.url = variables["KUBEFLOW_TRAINER_SERVER_URL"]
        self.ca = folder / "ca.crt"
        self.ca.write_text(manifest["metadata"]["annotations"]["lmops.dev/progress-ca"])

    def token(self, *arguments: str, audience: str = "lmops.dev") -> str:
        """A token of the pod's account, bound to what is said."""
        return self.cluster.kubectl(
            "create", "token", "default", "-n", self.namespace, f"--audience={audience}", *arguments
        ).strip()

    def client(self) -> Progress:
        """Our own client, as the pod would start it."""
        (self.folder / "token").write_text(self.token(*self.own))
        return Progress(self.url, str(self.ca), str(self.folder / "token"))

    def post(self, token: str | None, url: str = "") -> tuple[int, str]:
        """The answer to a post with this token."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        told = json.dumps({"trainerStatus": {"progressPercentage": 7}}).encode()
        request = urllib.request.Request(url or self.url, told, headers, method="POST")
        try:
            with urllib.request.urlopen(
                request, timeout=20, context=ssl.create_default_context(cafile=str(self.ca))
            ) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def pod(cluster: Cluster, namespace: str, running_operator: operator.Operator, tmp_path: Path) -> Iterator[Pod]:
    """The pod of a job's first run."""
    manifest = trainingjob().manifest()
    manifest.pop("status")
    cluster.apply({**manifest, "metadata": {"name": "reviews"}}, namespace=namespace)
    (created,) = Players(cluster, namespace, "reviews").run("prepare-a0")
    yield Pod(cluster, namespace, created, tmp_path)
    cluster.kubectl("delete", "trainingjob", "--all", "-n", namespace, "--wait=false")


def test_a_pod_moves_the_progress_of_its_job(cluster: Cluster, pod: Pod) -> None:
    client = pod.client()
    client.post(40, 12, rows_per_second=900)
    client.close(20)

    job = cluster.until(
        "trainingjob", "reviews", lambda job: "updatedAt" in job["status"].get("progress", {}), pod.namespace
    )
    assert (job["status"]["progress"]["percent"], job["status"]["display"]["progress"]) == (2, "2%")
    assert job["status"]["progress"]["runs"]["reviews-prepare-a0"]["secondsRemaining"] == 12
    assert job["status"]["metrics"]["rowsPerSecond"] == 900


def test_who_is_not_that_pod_is_refused(cluster: Cluster, pod: Pod) -> None:
    stranger = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": pod.manifest["spec"]}
    labels = pod.manifest["metadata"]["labels"]
    cluster.apply({**stranger, "metadata": {"name": "stranger", "labels": {"lmops.dev/run": labels["lmops.dev/run"]}}},
                  namespace=pod.namespace)  # fmt: skip
    uid = cluster.get("pod", "stranger", pod.namespace)["metadata"]["uid"]
    foreign = ("--bound-object-kind=Pod", "--bound-object-name=stranger", f"--bound-object-uid={uid}")
    token = pod.token(*pod.own)
    invalid = "the token is not valid: it must be a pod's own, for the audience lmops.dev\n"

    answers = [
        pod.post(None),
        pod.post("no.to.ken"),
        pod.post(pod.token(*pod.own, audience="elsewhere")),
        pod.post(pod.token()),
        pod.post(pod.token(*foreign)),
        pod.post(token, pod.url.replace("/trainingjobs/reviews/", "/trainingjobs/other/")),
        pod.post(token, pod.url.replace("prepare-a0", "train-a0")),
        pod.post(token, pod.url.replace(f"/namespaces/{pod.namespace}/", "/namespaces/default/")),
        pod.post(token),
    ]

    assert answers == [
        (401, "no token: send the pod's ServiceAccount token as Authorization: Bearer\n"),
        (401, invalid),
        (401, invalid),
        (403, "the token was given to no pod\n"),
        (403, "Pod stranger is controlled by no Job or PyTorchJob\n"),
        (403, f"pod {pod.name} belongs to TrainingJob reviews, and not to TrainingJob other\n"),
        (403, f"pod {pod.name} belongs to run reviews-prepare-a0, and not to reviews-train-a0\n"),
        (403, f"pod {pod.name} is in namespace {pod.namespace}, and not in default\n"),
        (200, '{"written": true}'),
    ]


def test_a_token_of_a_pod_that_is_gone_is_worth_nothing(cluster: Cluster, pod: Pod) -> None:
    token = pod.token(*pod.own)
    cluster.kubectl("delete", "pod", pod.name, "-n", pod.namespace, "--grace-period=0", "--force")

    assert pod.post(token)[0] in (401, 403)


def test_with_rights_in_one_namespace_alone_tokens_are_verified_by_the_issuers_keys(
    cluster: Cluster, pod: Pod, tmp_path: Path
) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]},
        {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["get"]},
        {"apiGroups": ["lmops.dev"], "resources": ["trainingjobs"], "verbs": ["get"]},
        {"apiGroups": ["lmops.dev"], "resources": ["trainingjobs/status"], "verbs": ["patch"]},
    ]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "small", "namespace": "lmops-system"}}
    cluster.apply(account, *granted("small", pod.namespace, "small", "lmops-system", rules))
    cluster.apply(*certificates("small", "lmops-system"))
    kubeconfig = operator.token_kubeconfig(cluster, account, tmp_path / "small.kubeconfig")
    settings = Settings(namespace="lmops-system", namespaces=(pod.namespace,), progress_port=0)
    good = pod.token(*pod.own)
    tokens = (pod.token(*pod.own, audience="elsewhere"), good[:-4] + "AAAA", pod.token(), good)

    async def play() -> list[tuple[int, str]]:
        configuration = client.Configuration()
        await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        async with client.ApiClient(configuration) as api:
            kubernetes = Kubernetes(api)
            server = Server(settings, kubernetes, Certificates(kubernetes, settings, lambda: False))
            async with server.serving():
                await asyncio.wait_for(server.ready.wait(), 20)
                url = f"https://{HOST}:{server.port}/" + pod.url.split("/", 3)[3]
                return [await asyncio.to_thread(pod.post, token, url) for token in tokens]

    assert [code for code, _ in asyncio.run(play())] == [401, 401, 403, 200]
