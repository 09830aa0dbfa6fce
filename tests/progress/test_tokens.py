"""Whose token it is: as the API server says, or as its issuer's signature proves."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from lmops.plan import Manifest
from lmops.progress.tokens import AT_ONCE, Holder, Issuer, Remembered, reviewer

ISSUER = "https://kubernetes.default.svc"
POD = {"name": "a-train-a1-master-0", "uid": "p-1"}
HOLDER = Holder("default", "a-train-a1-master-0", "p-1")
KEY, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


def token(key: rsa.RSAPrivateKey = KEY, kid: str = "k1", **changes: Any) -> str:
    """A token as Kubernetes makes them; `None` takes a claim away."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": ["lmops.dev"],
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "sub": "system:serviceaccount:default:default",
        "kubernetes.io": {"namespace": "default", "pod": POD, "serviceaccount": {"name": "default", "uid": "s-1"}},
        **changes,
    }
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, "RS256", headers={"kid": kid})


class Published:
    """The documents of an API server that may change its keys."""

    def __init__(self, **keys: rsa.RSAPrivateKey) -> None:
        self.keys, self.asked = keys, 0

    async def __call__(self, path: str) -> Manifest:
        self.asked += 1
        if path == "/.well-known/openid-configuration":
            return {"issuer": ISSUER, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks"}
        assert path == "/openid/v1/jwks"
        public = {name: json.loads(RSAAlgorithm.to_jwk(key.public_key())) for name, key in self.keys.items()}
        return {"keys": [{**jwk, "kid": name, "alg": "RS256", "use": "sig"} for name, jwk in public.items()]}


FORGED = {
    "another key": token(OTHER),
    "an unknown key": token(kid="k2"),
    "no key": jwt.encode({"iss": ISSUER}, KEY, "RS256"),
    "no signature": jwt.encode({"iss": ISSUER, "aud": "lmops.dev"}, "", "none", headers={"kid": "k1"}),
    "a secret": jwt.encode({"iss": ISSUER, "aud": "lmops.dev"}, "a secret" * 8, "HS256", headers={"kid": "k1"}),
    "another issuer": token(iss="https://elsewhere"),
    "another audience": token(aud=["https://kubernetes.default.svc"]),
    "no audience": token(aud=None),
    "expired": token(exp=int(time.time()) - 1),
    "without an end": token(exp=None),
    "not valid yet": token(nbf=int(time.time()) + 24 * 3600),
    "no Kubernetes claim": token(**{"kubernetes.io": None}),
    "a word": "sesame",
    "nothing": "",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_token_that_is_not_its_issuers_is_nobodys(forged: str):
    assert asyncio.run(Issuer(Published(k1=KEY), "lmops.dev").verify(forged)) is None


def test_a_signed_token_names_its_pod():
    assert asyncio.run(Issuer(Published(k1=KEY), "lmops.dev").verify(token())) == HOLDER


def test_a_signed_token_of_an_account_alone_names_no_pod():
    alone = token(**{"kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "x"}}})

    assert asyncio.run(Issuer(Published(k1=KEY), "lmops.dev").verify(alone)) == Holder("default")


def test_keys_are_fetched_again_for_a_new_one_but_only_once_in_a_while():
    published, now = Published(k1=KEY), [0.0]
    issuer = Issuer(published, "lmops.dev", clock=lambda: now[0])
    fresh = token(OTHER, "k2")

    async def play() -> list[tuple[bool, int]]:
        seen = []
        for moment, known, sent in (
            (0, {"k1": KEY}, token()),
            (1, {"k1": KEY}, token()),
            (2, {"k1": KEY, "k2": OTHER}, fresh),  # too soon: whoever asks may invent names
            (60, {"k1": KEY, "k2": OTHER}, fresh),
            (61, {"k2": OTHER}, token()),  # an old key is believed until the next look
            (120, {"k2": OTHER}, token(kid="k3")),
            (121, {"k2": OTHER}, token()),
        ):
            now[0], published.keys = float(moment), known
            seen.append((await issuer.verify(sent) is not None, published.asked // 2))
        return seen

    assert asyncio.run(play()) == [(True, 1), (True, 1), (False, 1), (True, 2), (True, 2), (False, 3), (False, 3)]


def review(status: dict[str, Any]) -> Holder | None:
    """What a server's answer says."""

    async def create(manifest: Manifest) -> Manifest:
        assert (manifest["kind"], manifest["spec"]) == ("TokenReview", {"token": "t", "audiences": ["lmops.dev"]})
        return {**manifest, "status": status}

    return asyncio.run(reviewer(create, "lmops.dev")("t"))


USER = {
    "username": "system:serviceaccount:default:trainer",
    "extra": {
        "authentication.kubernetes.io/pod-name": [POD["name"]],
        "authentication.kubernetes.io/pod-uid": [POD["uid"]],
    },
}


@pytest.mark.parametrize(
    ("status", "holder"),
    [
        ({"authenticated": True, "audiences": ["lmops.dev"], "user": USER}, HOLDER),
        ({"authenticated": True, "audiences": ["lmops.dev"], "user": {**USER, "extra": None}}, Holder("default")),
        ({"authenticated": True, "audiences": ["lmops.dev"], "user": {**USER, "username": "root"}}, Holder("")),
        ({"authenticated": True, "audiences": ["else"], "user": USER}, None),
        ({"authenticated": True, "user": USER}, None),  # a server that knows no audiences
        ({"error": "expired"}, None),
        ({}, None),
    ],
)
def test_a_review_names_the_pod(status: dict[str, Any], holder: Holder | None):
    assert review(status) == holder


def test_an_answer_is_kept_five_minutes_and_a_token_never(monkeypatch: pytest.MonkeyPatch):
    asked, now = [], [0.0]

    async def verify(token: str) -> Holder | None:
        asked.append(token)
        return HOLDER if token == "good" else None

    remembered = Remembered(verify)
    for memory in (remembered._valid, remembered._invalid):
        memory.clock = lambda: now[0]

    async def play() -> None:
        for moment, sent in ((0, "good"), (0, "bad"), (9, "bad"), (10, "bad"), (299, "good"), (300, "good")):
            now[0] = float(moment)
            assert await remembered(sent) == (HOLDER if sent == "good" else None)

    asyncio.run(play())
    assert asked == ["good", "bad", "bad", "good"]
    kept = repr([memory._kept for memory in (remembered._valid, remembered._invalid)])
    assert "good" not in kept
    assert "bad" not in kept


def test_a_flood_of_false_tokens_is_asked_about_a_few_at_a_time():
    asking, most = [0], [0]

    async def verify(token: str) -> None:
        asking[0] += 1
        most[0] = max(most[0], asking[0])
        await asyncio.sleep(0)
        asking[0] -= 1

    async def play() -> None:
        remembered = Remembered(verify)
        await asyncio.gather(*(remembered(f"false {number}") for number in range(100)))

    asyncio.run(play())
    assert most == [AT_ONCE]


def test_a_token_that_was_valid_is_heard_during_a_flood_of_false_ones():
    now, flood = [0.0], asyncio.Event()

    async def verify(token: str) -> Holder | None:
        if token.startswith("false"):
            await flood.wait()
            return None
        return None if token == "expired" and now[0] else HOLDER

    async def play() -> list[Holder | None]:
        remembered = Remembered(verify)
        for memory in (remembered._valid, remembered._well_known):
            memory.clock = lambda: now[0]
        await remembered("good"), await remembered("expired")
        flooding = [asyncio.create_task(remembered(f"false {number}")) for number in range(100)]
        await asyncio.sleep(0)
        heard = []
        for moment in (301, 1000, 3500):  # nobody remembers the answer any more
            now[0] = float(moment)
            heard += [await asyncio.wait_for(remembered(token), 1) for token in ("good", "expired")]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(remembered("new"), 0.01)
        flood.set()
        await asyncio.gather(*flooding)
        return heard

    assert asyncio.run(play()) == [HOLDER, None] * 3
