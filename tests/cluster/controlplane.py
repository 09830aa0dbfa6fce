"""A control plane without nodes, and without root: etcd, kube-apiserver and kube-controller-manager on free ports."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.builds import program
from cluster.certificates import Authority, signing_keys, written
from cluster.client import Cluster
from cluster.processes import Daemons, free_ports

LOOPBACK = "127.0.0.1"
SERVICES = "10.96.0.0/16"
ADMISSION = "NodeRestriction,OwnerReferencesPermissionEnforcement"  # the second one is what OpenShift insists on


class ControlPlane(Cluster):
    """A control plane, and what further daemons need to join it."""

    def __init__(self, folder: Path, daemons: Daemons, address: str = LOOPBACK, services: str = SERVICES) -> None:
        self.folder, self.daemons, self.address, self.services = folder, daemons, address, services
        self.authority = Authority("training-operator-ca")  # the name that Kubeflow's operator looks for
        self.ca = written(folder / "ca.crt", self.authority.pair.certificate)
        (self.port,) = free_ports(1, address)
        super().__init__(self.user("admin", "system:masters"))

    def user(self, name: str, group: str = "") -> Path:
        """A kubeconfig for a user, who may do what the cluster's rules allow that name and group."""
        file = self.folder / f"{name.rpartition(':')[2]}.kubeconfig"
        return self.authority.kubeconfig(file, f"https://{self.address}:{self.port}", name, group)

    def start(self, controllers: bool = True) -> None:
        """Starts everything on an empty etcd, and returns when a pod could be made, or the API server answers."""
        private, public = signing_keys(self.folder)
        self._start_apiserver(self._start_etcd(), private, public)
        self._wait_for_apiserver()
        if not controllers:
            return
        self._start_controllers(private)
        self.daemons.wait("default ServiceAccount", lambda: self.answers("get", "serviceaccount", "default"))

    @contextmanager
    def without_apiserver(self) -> Iterator[None]:
        """The API server is away for the length of a block, and has forgotten nothing afterwards."""
        self.daemons.kill("kube-apiserver")
        yield
        self.daemons.restart("kube-apiserver")
        self._wait_for_apiserver()

    def _wait_for_apiserver(self) -> None:
        self.daemons.wait("kube-apiserver", lambda: self.answers("get", "--raw", "/readyz"))

    def _start_etcd(self) -> str:
        clients, peers = (f"http://{LOOPBACK}:{port}" for port in free_ports(2))
        self.daemons.start(
            "etcd", program("etcd"),
            f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}",
            "--quota-backend-bytes=2147483648", "--auto-compaction-retention=10m",
        )  # fmt: skip
        return clients

    def _start_apiserver(self, etcd: str, private: Path, public: Path) -> None:
        service = str(ipaddress.ip_network(self.services)[1])
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        pair = self.authority.issue("kube-apiserver", hosts=(self.address, service, *names))
        certificate, key = pair.write(self.folder, "apiserver")
        client, client_key = self.authority.issue("kube-apiserver", "system:masters").write(self.folder, "to-kubelets")
        # a loopback address cannot be an endpoint of the Service `kubernetes`
        endpoint = ["--endpoint-reconciler-type=none"] if self.address == LOOPBACK else []
        self.daemons.start(
            "kube-apiserver", program("kube-apiserver"), f"--etcd-servers={etcd}",
            f"--bind-address={self.address}", f"--advertise-address={self.address}", f"--secure-port={self.port}",
            f"--service-cluster-ip-range={self.services}", *endpoint, "--allow-privileged=true", "--profiling=false",
            "--authorization-mode=Node,RBAC", f"--enable-admission-plugins={ADMISSION}",
            f"--client-ca-file={self.ca}", f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={public}", f"--service-account-signing-key-file={private}",
            f"--kubelet-certificate-authority={self.ca}", "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={client}", f"--kubelet-client-key={client_key}",
        )  # fmt: skip

    def _start_controllers(self, private: Path) -> None:
        user = self.user("system:kube-controller-manager")
        self.daemons.start(
            "kube-controller-manager", program("kube-controller-manager"), f"--kubeconfig={user}",
            f"--root-ca-file={self.ca}", f"--service-account-private-key-file={private}",
            "--use-service-account-credentials=true", "--leader-elect=false", "--secure-port=0", "--profiling=false",
        )  # fmt: skip


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """A control plane on loopback ports, until the end of the block."""
    with Daemons(folder / "logs") as daemons:
        plane = ControlPlane(folder, daemons)
        plane.start()
        yield plane
    shutil.rmtree(folder / "etcd")
