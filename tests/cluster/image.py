"""Images for the node, made of this tree and of this machine, with no builder and nothing pulled.

An image holds our code. The packages of its hashed requirement file are a folder of this machine, linked out of uv's
cache; that folder, Python and the system's libraries are mounted into every container, read-only. So an image weighs a
few hundred kilobytes, and what is imported is what the requirement file names. The Dockerfiles are tested elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from cluster.builds import CACHE, MissingError, Say, alone, program

ROOT = Path(__file__).parents[2]
SITES = CACHE / "packages"
INSIDE = "/opt/packages"
TRAINER = {
    "operator/lmops/__init__.py": "/opt/lmops/lmops/__init__.py",
    "operator/lmops/api": "/opt/lmops/lmops/api",
    "images/trainer/lmops_trainer": "/opt/lmops/lmops_trainer",
}
COMPRESSOR = {**TRAINER, "images/compressor/lmops_compressor": "/opt/lmops/lmops_compressor"}
SOURCES = {
    "operator": {"operator/lmops": "/opt/lmops/lmops"},
    "trainer": TRAINER,
    "compressor": COMPRESSOR,
    "server": {**COMPRESSOR, "images/server/lmops_server": "/opt/lmops/lmops_server"},
}
"""What each image has of this tree, as its Dockerfile copies it."""
MODULES = {
    "operator": "lmops",
    "trainer": "lmops_trainer",
    "compressor": "lmops_compressor",
    "server": "lmops_server",
}
LINKS = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}


def build(name: str, folder: Path, say: Say = print) -> Path:
    """The archive of an image of this tree: `localhost/lmops-operator:test`, `localhost/lmops-trainer:test`."""
    packages = site(name, say)
    environment = [
        f"PATH={sys.base_prefix}/bin:/usr/bin:/bin",
        f"PYTHONPATH=/opt/lmops:{INSIDE}/{packages.name}",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "LANG=C.UTF-8",
    ]
    contents = {target: ROOT / source for source, target in SOURCES[name].items()}
    config = {"Env": environment, "Entrypoint": ["python", "-m", MODULES[name]], "User": "1000:1000"}
    return archive(folder / f"{name}.tar", f"localhost/lmops-{name}:test", contents, config)


def pause(folder: Path) -> Path:
    """The archive of the image that holds a pod's namespaces open."""
    return archive(folder / "pause.tar", "localhost/pause:1", {"/pause": program("pause")}, {"Entrypoint": ["/pause"]})


def site(name: str, say: Say = print) -> Path:
    """The packages of an image's hashed requirement file in a folder of their own, made once."""
    requirements = ROOT / "images" / name / "requirements.txt"
    text = requirements.read_bytes() + sys.version.encode()
    target = SITES / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"
    if target.exists():
        return target
    uv = shutil.which("uv", path=f"{sys.prefix}/bin") or shutil.which("uv")
    if uv is None:
        raise MissingError("`uv` is not installed (pip install uv)")
    with alone():
        if not target.exists():
            say(f"installing the packages of {requirements.relative_to(ROOT)}")
            _install(uv, requirements, target)
    return target


def _install(uv: str, requirements: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--require-hashes", "--no-deps"]
    subprocess.run([*install, "--compile-bytecode", "--target", part, "-r", requirements], check=True)
    part.rename(target)


def with_this_machine(spec: dict[str, Any]) -> dict[str, Any]:
    """The base of every container: what images share is mounted from this machine, read-only."""
    SITES.mkdir(parents=True, exist_ok=True)
    sources = {"/usr": "/usr", str(SITES): INSIDE, "/etc/ld.so.cache": "/etc/ld.so.cache"}
    if not sys.base_prefix.startswith("/usr"):
        sources[sys.base_prefix] = sys.base_prefix
    shared = [
        {"source": source, "destination": target, "type": "bind", "options": ["rbind", "ro", "nosuid", "nodev"]}
        for source, target in sources.items()
    ]
    return {**spec, "mounts": [*spec["mounts"], *shared]}


def archive(file: Path, name: str, contents: dict[str, Path], config: dict[str, Any]) -> Path:
    """An image of one layer, as `docker save` would write it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for link, target in LINKS.items():
            _add_link(tar, link, target)
        for path, content in FILES.items():
            _add_file(tar, path, content)
        tar.addfile(_folder_for_all("tmp"))
        for target, source in contents.items():
            tar.add(source, target.lstrip("/"), filter=_plain)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    described = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "config": config,
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(file, "w") as tar:
        _add_file(tar, "config.json", json.dumps(described).encode())
        _add_file(tar, "manifest.json", json.dumps(manifest).encode())
        _add_file(tar, f"{digest}.tar", layer.getvalue())
    return file


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A file as everybody may read it, without bytecode and owners."""
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def _folder_for_all(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o1777
    return member


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)
