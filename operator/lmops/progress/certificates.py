"""The endpoint's own certificates: what is due at a given time, and how it is made.

Pods are given the authorities' certificates when they are created, and keep them. So a new authority is published
beside the old one for years before a server's certificate is issued by it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=90)
SKEW = timedelta(hours=1)
"""How far behind a pod's clock may be."""
ENCODING = serialization.Encoding.PEM
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip

Names = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ends(self) -> datetime:
        """When it is no longer valid."""
        return self.certificate.not_valid_after_utc

    @property
    def names(self) -> Names:
        """The DNS names it is for."""
        found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(found.value.get_values_for_type(x509.DNSName))

    def is_old(self, now: datetime) -> bool:
        """Whether two thirds of its life are over."""
        begin = self.certificate.not_valid_before_utc
        return now >= begin + (self.ends - begin) * 2 / 3

    def was_issued_by(self, authority: Pair) -> bool:
        """Whether a client that trusts the authority trusts this."""
        try:
            self.certificate.verify_directly_issued_by(authority.certificate)
        except (ValueError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True)
class Keyring:
    """All that is kept: the authorities that pods are told of, the oldest first, and what a server shows."""

    authorities: tuple[Pair, ...] = ()
    server: Pair | None = None

    @property
    def bundle(self) -> str:
        """The authorities' certificates, for those who are to trust them."""
        return "".join(_pem(pair.certificate) for pair in self.authorities)

    @property
    def chain(self) -> tuple[str, str]:
        """The server's certificate and its key."""
        assert self.server is not None
        return _pem(self.server.certificate), _pem_of_key(self.server.key)

    def data(self) -> dict[str, str]:
        """The data of a Secret of type kubernetes.io/tls."""
        certificate, key = self.chain
        keys = "".join(_pem_of_key(pair.key) for pair in self.authorities)
        plain = {"tls.crt": certificate, "tls.key": key, "ca.crt": self.bundle, "ca.key": keys}
        return {name: base64.b64encode(text.encode()).decode() for name, text in plain.items()}

    @classmethod
    def read(cls, data: dict[str, str]) -> Keyring:
        """What a Secret's data says; `ValueError` where that is not what `data` makes."""
        plain = {name: base64.b64decode(data.get(name, "")) for name in ("tls.crt", "tls.key", "ca.crt", "ca.key")}
        (server,) = _pairs(plain["tls.crt"], plain["tls.key"])
        return cls(_pairs(plain["ca.crt"], plain["ca.key"]), server)


class Due(NamedTuple):
    """What is to be made."""

    authority: bool
    server: bool


def due(held: Keyring, names: Names, now: datetime) -> Due:
    """What is to be made now. An authority is followed up, and a server's certificate renewed, after two thirds."""
    valid, server = _valid(held.authorities, now), held.server
    current = server and server.names == names and any(server.was_issued_by(authority) for authority in valid)
    return Due(authority=not valid or valid[-1].is_old(now), server=not current or not server or server.is_old(now))


def renewed(held: Keyring, names: Names, now: datetime) -> Keyring:
    """The keyring with what is due; the very same one where nothing is."""
    wanted, authorities = due(held, names, now), _valid(held.authorities, now)
    if wanted.authority:
        authorities += (authority(now),)
    if not any(wanted) and authorities == held.authorities:
        return held
    # the oldest that will live long enough: all pods that run know it
    issuer = next(authority for authority in authorities if authority.ends >= now + SERVER_LIFE)
    return Keyring(authorities, server(issuer, names, now) if wanted.server else held.server)


def authority(now: datetime) -> Pair:
    """A new authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"lmops progress {now:%Y-%m-%dT%H:%M:%SZ}")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    request = _certificate(name, name, key, now, AUTHORITY_LIFE)
    request = request.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Pair(request.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key)


def server(issuer: Pair, names: Names, now: datetime) -> Pair:
    """A new server's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    about = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    request = (
        _certificate(_name(names[0]), issuer.certificate.subject, key, now, SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(about), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
    )
    return Pair(request.sign(issuer.key, hashes.SHA256()), key)


def _valid(authorities: tuple[Pair, ...], now: datetime) -> tuple[Pair, ...]:
    return tuple(authority for authority in authorities if now < authority.ends)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(**uses: bool) -> x509.KeyUsage:
    none = dict.fromkeys(USES, False)
    return x509.KeyUsage(**{**none, **uses})


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(ENCODING).decode()


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(ENCODING, form, serialization.NoEncryption()).decode()


def _pairs(certificates: bytes, keys: bytes) -> tuple[Pair, ...]:
    blocks = re.findall(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----", keys, re.DOTALL)
    both = zip(x509.load_pem_x509_certificates(certificates), blocks, strict=True)
    return tuple(_pair(certificate, block) for certificate, block in both)


def _pair(certificate: x509.Certificate, block: bytes) -> Pair:
    key = serialization.load_pem_private_key(block, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("a key does not belong to its certificate")
    return Pair(certificate, key)
