"""A node with real pods: a control plane and, in namespaces of its own, containerd, kubelet, kube-proxy and CoreDNS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import image
from cluster.builds import MissingError, Say, alone, program
from cluster.controlplane import ControlPlane
from cluster.namespaces import CGROUPS, Machine, machine
from cluster.processes import Daemons

CONF = Path(__file__).parent / "conf"
NAME = "node"
PACKAGES = {
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/bin/ip": "iproute2",
}
"""What a node needs of Debian: a file, and the package that has it."""


class Node(ControlPlane):
    """A control plane with a node."""

    def __init__(self, folder: Path, machine: Machine, daemons: Daemons) -> None:
        super().__init__(folder, daemons, machine.host, machine.services)
        self.machine = machine

    def start(self) -> None:
        """Starts everything, and returns when the node is ready for pods."""
        super().start()
        self._start_scheduler()
        self._start_containerd()
        self._start_kubelet()
        self._start_proxy()
        self._start_dns()
        ready = ("wait", "--for=condition=Ready", "--timeout=1s", f"node/{NAME}")
        self.daemons.wait("ready node", lambda: self.answers(*ready))

    def load(self, archive: Path) -> None:
        """Gives an image to the node."""
        self.machine.run(program("ctr"), "-n", "k8s.io", "images", "import", archive)

    def _start_inside(self, name: str, *arguments: str | Path, **environment: str) -> None:
        command = self.machine.inside(program(name), *arguments)
        path = f"{program('containerd').parent}:{os.environ['PATH']}"  # containerd looks for its shim there
        self.daemons.start(name, *command, environment={**os.environ, "PATH": path, **environment})

    def _start_scheduler(self) -> None:
        user = self.user("system:kube-scheduler")
        arguments = (f"--kubeconfig={user}", "--leader-elect=false", "--secure-port=0", "--profiling=false")
        self.daemons.start("kube-scheduler", program("kube-scheduler"), *arguments)

    def _start_containerd(self) -> None:
        library = self.folder / "var/lib"
        _write(library / "cni/conf/10-bridge.conflist", _bridge(self.machine.pods))
        spec = json.loads(subprocess.run([program("ctr"), "oci", "spec"], check=True, capture_output=True).stdout)
        _write(library / "containerd/base.json", image.with_this_machine(spec))
        self._start_inside("containerd", f"--config={CONF}/containerd.toml")
        self.daemons.wait("containerd", lambda: _succeeds(self.machine.inside(program("ctr"), "version")))
        self.load(image.pause(self.folder))

    def _start_kubelet(self) -> None:
        pair = self.authority.issue(f"system:node:{NAME}", "system:nodes", (NAME, self.machine.address))
        certificate, key = pair.write(self.folder, "kubelet")
        resolver = self.folder / "resolv.conf"
        resolver.write_text(f"nameserver {self.machine.address}\n")
        config = {
            **_kubelet(self.machine),
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(self.ca)}},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "resolvConf": str(resolver),
        }
        user = self.user(f"system:node:{NAME}", "system:nodes")
        self._start_inside(
            "kubelet", f"--config={_write(self.folder / 'kubelet.json', config)}", f"--kubeconfig={user}",
            f"--hostname-override={NAME}", f"--node-ip={self.machine.address}",
        )  # fmt: skip

    def _start_proxy(self) -> None:
        config = _proxy(self.machine, self.user("system:kube-proxy"))
        self._start_inside("kube-proxy", f"--config={_write(self.folder / 'kube-proxy.json', config)}")

    def _start_dns(self) -> None:
        self.kubectl("apply", "--server-side", "-f", CONF / "coredns.yaml")
        user = self.user("test:coredns")
        self._start_inside("coredns", "-conf", CONF / "Corefile", ADDRESS=self.machine.address, KUBECONFIG=str(user))


@contextmanager
def running(folder: Path) -> Iterator[Node]:
    """A node, until the end of the block."""
    with Daemons(folder / "logs") as daemons, machine(folder, daemons) as inside:
        node = Node(folder, inside, daemons)
        node.start()
        yield node
    for part in ("etcd", "var"):
        shutil.rmtree(folder / part)


def require(say: Say = print) -> None:
    """Raises where a node cannot run; as root, installs the Debian packages that it needs."""
    if os.geteuid() != 0 or not Path("/proc/self/ns/pid").exists():
        raise MissingError("a node needs root on Linux")
    missing = sorted({package for file, package in PACKAGES.items() if not Path(file).exists()})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise MissingError(f"{', '.join(missing)}: not installed, and this is no Debian")
    with alone():  # apt-get refuses to run twice at a time
        if all(Path(file).exists() for file in PACKAGES):
            return
        say(f"installing {', '.join(missing)}")
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingError(f"apt-get {' '.join(command)} said: {done.stderr.strip()[-500:]}")


def _kubelet(machine: Machine) -> dict[str, Any]:
    old = not (CGROUPS / "cgroup.controllers").exists()
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        **({"failCgroupV1": False, "cgroupRoot": f"/{machine.name}"} if old else {}),
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": machine.address,
        "healthzBindAddress": "127.0.0.1",
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [machine.address],
        "failSwapOn": False,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,  # 100: an image that was given by hand is never thrown away
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "2%", "imagefs.available": "2%"},
    }


def _proxy(machine: Machine, user: Path) -> dict[str, Any]:
    unset = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "nodePortAddresses": ["primary"],
        "hostnameOverride": NAME,
        "bindAddress": machine.address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": machine.pods,
        "clientConnection": {"kubeconfig": str(user)},
        "conntrack": unset,  # those sysctls are read-only outside of the first network namespace
        "iptables": {"minSyncPeriod": "100ms", "localhostNodePorts": False},
    }


def _bridge(pods: str) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "test", "plugins": [{**bridge, "ipam": addresses}, ports]}


def _write(file: Path, content: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
