"""Which certificate is due when, and that clients never notice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from lmops.progress.certificates import Due, Keyring, due, renewed

BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("lmops-progress.lmops.svc", "lmops-progress.lmops.svc.cluster.local")
BORN = renewed(Keyring(), NAMES, BIRTH)


def day(number: float) -> datetime:
    return BIRTH + timedelta(days=number)


def trusts(bundle: str, keyring: Keyring, now: datetime, name: str = NAMES[0]) -> bool:
    """Whether a client with that bundle accepts the server."""
    store = Store(x509.load_pem_x509_certificates(bundle.encode()))
    client = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(name))
    assert keyring.server is not None
    try:
        client.verify(keyring.server.certificate, [])
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize(
    ("why", "held", "names", "now", "expected"),
    [
        ("nothing is there", Keyring(), NAMES, day(0), Due(authority=True, server=True)),
        ("all is new", BORN, NAMES, day(0), Due(authority=False, server=False)),
        ("before two thirds of 90 days", BORN, NAMES, day(59.9), Due(authority=False, server=False)),
        ("after two thirds of 90 days", BORN, NAMES, day(60), Due(authority=False, server=True)),
        ("the server's has run out", BORN, NAMES, day(91), Due(authority=False, server=True)),
        ("before two thirds of ten years", BORN, NAMES, day(2433), Due(authority=False, server=True)),
        ("after two thirds of ten years", BORN, NAMES, day(2434), Due(authority=True, server=True)),
        ("the authority has run out", BORN, NAMES, day(3650), Due(authority=True, server=True)),
        ("the Service has another name", BORN, ("other.svc",), day(1), Due(authority=False, server=True)),
        (
            "the authority is another one",
            Keyring(renewed(Keyring(), NAMES, BIRTH).authorities, BORN.server),
            NAMES,
            day(1),
            Due(authority=False, server=True),
        ),
    ],
)
def test_what_is_due(why: str, held: Keyring, names: tuple[str, ...], now: datetime, expected: Due) -> None:
    assert due(held, names, now) == expected, why


def test_where_nothing_is_due_nothing_changes() -> None:
    assert renewed(BORN, NAMES, day(59)) is BORN


def test_a_pod_of_the_last_three_years_trusts_the_server_at_any_time() -> None:
    keyring, bundles, authorities = BORN, [(BIRTH, BORN.bundle)], set[int]()
    for number in range(0, 12000, 25):
        now = day(number)
        keyring = renewed(keyring, NAMES, now)
        bundles = [(since, bundle) for since, bundle in bundles if now - since < timedelta(days=1095)]
        bundles.append((now, keyring.bundle))
        authorities |= {pair.certificate.serial_number for pair in keyring.authorities}
        assert keyring.server is not None
        assert keyring.server.ends > now + timedelta(days=29)
        assert all(trusts(bundle, keyring, now) for _, bundle in (bundles[0], bundles[-1]))
    assert len(authorities) == 5
    assert 1 <= len(keyring.authorities) <= 2


def test_a_server_keeps_the_old_authority_while_the_new_one_is_published() -> None:
    both = renewed(BORN, NAMES, day(2434))

    assert both.authorities[0] == BORN.authorities[0]
    assert len(both.authorities) == 2
    assert trusts(BORN.bundle, both, day(2434))
    assert not trusts(BORN.bundle, both, day(2434), "elsewhere.svc")
    late = renewed(both, NAMES, day(3600))
    assert trusts(both.bundle, late, day(3600))
    assert not trusts(BORN.bundle, late, day(3600))


def test_a_secret_keeps_all_of_it() -> None:
    both = renewed(BORN, NAMES, day(2434))

    assert Keyring.read(both.data()).data() == both.data()
    assert due(Keyring.read(both.data()), NAMES, day(2435)) == Due(authority=False, server=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"tls.crt": ""},
        {"tls.key": "bm8="},
        {"ca.crt": "%"},
        {"ca.key": ""},
        {"tls.key": BORN.data()["ca.key"]},
    ],
)
def test_a_damaged_secret_is_told_from_a_whole_one(damage: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Keyring.read({**BORN.data(), **damage})
