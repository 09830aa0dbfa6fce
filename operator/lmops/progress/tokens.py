"""Which pod a ServiceAccount token was given to: the API server says so, or its issuer's signature proves it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import jwt

from lmops.memory import Memory
from lmops.plan import Manifest

ALGORITHMS = ["RS256", "ES256", "ES384", "ES512"]
"""What Kubernetes signs with. None of them takes a public key for a secret."""
CONFIGURATION, KEYS = "/.well-known/openid-configuration", "/openid/v1/jwks"
ACCOUNT = "system:serviceaccount:"
REFETCH = 60.0
"""Seconds between two looks for new keys."""
AT_ONCE = 8
"""Tokens that are asked about at a time: a flood of false ones may not take the operator's connections."""
VALID_FOR, INVALID_FOR, TOKENS = 300.0, 10.0, 10_000
"""Seconds for which an answer is kept, and how many are at the most."""
WELL_KNOWN_FOR = 3600.0
"""Seconds for which a token that was valid goes before those that never were: as long as a pod's token holds."""


class Holder(NamedTuple):
    """The pod that a token was given to; empty where it was given to none."""

    namespace: str
    pod: str = ""
    uid: str = ""


Verify = Callable[[str], Awaitable[Holder | None]]
"""Who holds a token; `None` where it is not valid for us."""


class Remembered:
    """Answers that are kept by a hash of the token: the token itself is kept nowhere.

    A token that was valid once does not wait behind a flood of others: what runs is heard meanwhile.
    """

    def __init__(self, verify: Verify) -> None:
        self.verify = verify
        self._valid = Memory[bytes, Holder](VALID_FOR, TOKENS)
        self._invalid = Memory[bytes, bool](INVALID_FOR, TOKENS)
        self._well_known = Memory[bytes, bool](WELL_KNOWN_FOR, TOKENS)
        self._turn, self._turn_of_well_known = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)

    async def __call__(self, token: str) -> Holder | None:
        key = hashlib.sha256(token.encode()).digest()
        if self._invalid.get(key):
            return None
        if known := self._valid.get(key):
            return known
        async with self._turn_of_well_known if self._well_known.get(key) else self._turn:
            holder = await self.verify(token)
        if holder:
            self._valid.put(key, holder)
            self._well_known.put(key, True)
        else:
            self._invalid.put(key, True)
            self._well_known.drop(key)
        return holder


def reviewer(create: Callable[[Manifest], Awaitable[Manifest]], audience: str) -> Verify:
    """Asks the API server, who knows as well which pods and accounts are gone."""

    async def verify(token: str) -> Holder | None:
        review = await create(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "metadata": {},
                "spec": {"token": token, "audiences": [audience]},
            }
        )
        status = review.get("status", {})
        if not status.get("authenticated") or audience not in status.get("audiences", ()):
            return None
        return _reviewed(status["user"])

    return verify


class Issuer:
    """Verifies tokens by the keys that the API server publishes: where tokens may not be reviewed."""

    def __init__(
        self,
        document: Callable[[str], Awaitable[Manifest]],
        audience: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.document, self.audience, self.clock = document, audience, clock
        self._issuer = ""
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")

    async def verify(self, token: str) -> Holder | None:
        """Who holds a token; `None` where its signature, issuer, audience or time is wrong."""
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.audience,
                issuer=self._issuer,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError:
            return None
        return _claimed(claims.get("kubernetes.io"))

    async def _key(self, name: str) -> jwt.PyJWK | None:
        """A key by its name. Keys change, so an unknown one is looked for; but whoever asks may invent names."""
        if name not in self._keys and self.clock() - self._fetched >= REFETCH:
            issuer, published = (await self.document(CONFIGURATION))["issuer"], await self.document(KEYS)
            keys = jwt.PyJWKSet.from_dict(published).keys
            self._issuer, self._keys = issuer, {key.key_id: key for key in keys if key.key_id}
            self._fetched = self.clock()
        return self._keys.get(name)


def _reviewed(user: dict[str, Any]) -> Holder:
    account, extra = str(user.get("username", "")), user.get("extra") or {}
    if not account.startswith(ACCOUNT):
        return Holder("")
    pod, uid = ((extra.get(f"authentication.kubernetes.io/pod-{part}") or [""])[0] for part in ("name", "uid"))
    return Holder(account.removeprefix(ACCOUNT).partition(":")[0], pod, uid)


def _claimed(claim: Any) -> Holder | None:
    if not isinstance(claim, dict):
        return None
    pod = claim.get("pod") or {}
    return Holder(str(claim.get("namespace", "")), str(pod.get("name", "")), str(pod.get("uid", "")))
