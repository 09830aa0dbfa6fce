"""Certificates and kubeconfigs of a test cluster: an authority that lives as long as the cluster does."""

from __future__ import annotations

import ipaddress
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=365)


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Files of both."""
        return written(folder / f"{name}.crt", self.certificate), written(folder / f"{name}.key", self.key)


class Authority:
    """Signs for everybody in a cluster. `names` are names of its own, for those who ask an authority for one."""

    def __init__(self, *names: str) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self._name = _subject("lmops-test-cluster", "")
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._signed = (
            _certificate(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectAlternativeName([_host(name) for name in names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        self.pair = Pair(self._signed.public_bytes(Encoding.PEM), pem)

    def issue(self, name: str, group: str = "", hosts: tuple[str, ...] = ()) -> Pair:
        """A certificate for a user and its group and, where there are hosts, for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        draft = (
            _certificate(_subject(name, group), self._name, key.public_key())
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            draft = draft.add_extension(names, critical=False)
        signed = draft.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        return Pair(signed, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def kubeconfig(self, file: Path, server: str, name: str, group: str = "") -> Path:
        """A kubeconfig for a user whose certificate says who that is."""
        pair = self.issue(name, group)
        user = {"client-certificate-data": _text(pair.certificate), "client-key-data": _text(pair.key)}
        return kubeconfig(file, server, self.pair.certificate, user)


def signing_keys(folder: Path) -> tuple[Path, Path]:
    """Files of the key that signs ServiceAccounts' tokens, and of its public half."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return written(folder / "tokens.key", private), written(folder / "tokens.pub", public)


def kubeconfig(file: Path, server: str, authority: bytes, user: dict[str, str]) -> Path:
    """A kubeconfig for a server and a user."""
    cluster = {"server": server, "certificate-authority-data": _text(authority)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    return written(file, json.dumps(content).encode())


def written(file: Path, content: bytes) -> Path:
    """A file that nobody else may read."""
    file.touch(mode=0o600)
    file.write_bytes(content)
    return file


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )


def _subject(name: str, group: str) -> x509.Name:
    parts = [(NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, group)]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts if value])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _text(content: bytes) -> str:
    return b64encode(content).decode()
