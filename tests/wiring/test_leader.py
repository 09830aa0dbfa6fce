"""One replica leads, and one that is not sure that it does writes nothing."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import FakeCluster
from faults import NONE, Fault, Faults, lose_reply
from lmops import leader as module
from lmops.leader import Leader, LostError
from store import Store


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths."""
    for name, value in {"HOLD": 0.3, "PATIENCE": 0.8, "RETRY": 0.04}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(Leader, "_lease", _with_short_hold(Leader._lease))


def _with_short_hold(lease: object) -> object:
    def short(self: Leader, *more: object) -> dict[str, object]:
        made = lease(self, *more)  # type: ignore[operator]
        return {**made, "spec": {**made["spec"], "leaseDurationSeconds": 0.3}}

    return short


def pair() -> tuple[FakeCluster, Leader, Leader]:
    server = FakeCluster(Store())
    return server, *(Leader(server, "lmops", "operator", name) for name in ("one", "two"))


def holder(server: FakeCluster) -> str:
    return str(server.store.objects["Lease", "lmops", "operator"]["spec"]["holderIdentity"])


def test_nobody_may_write_before_the_election():
    _, one, _ = pair()

    with pytest.raises(LostError):
        one.permit()


def test_the_second_waits_for_as_long_as_the_first_renews():
    server, one, two = pair()

    async def play() -> None:
        await one.elected()
        keeping, waiting = asyncio.create_task(one.keep()), asyncio.create_task(two.elected())
        await asyncio.sleep(0.8)
        assert (one.leads, two.leads, waiting.done()) == (True, False, False)
        keeping.cancel()
        await asyncio.wait_for(waiting, 2)

    asyncio.run(play())
    assert (holder(server), two.leads) == ("two", True)


def test_one_that_was_frozen_may_not_write_when_it_wakes_up():
    server, one, two = pair()

    async def play() -> None:
        await one.elected()
        await two.elected()  # nobody renews

    asyncio.run(play())
    assert holder(server) == "two"
    with pytest.raises(LostError):
        one.permit()


def test_a_leader_that_resigns_is_followed_at_once():
    server, one, two = pair()

    async def play() -> None:
        await one.elected()
        await one.resign()
        assert await two._try()

    asyncio.run(play())
    assert (holder(server), one.leads) == ("two", False)


def test_a_leader_whose_lease_another_one_holds_ends():
    server, one, _ = pair()

    async def play() -> None:
        await one.elected()
        lease = server.store.objects["Lease", "lmops", "operator"]
        server.store.put({**lease, "spec": {**lease["spec"], "holderIdentity": "other"}})
        await asyncio.wait_for(one.keep(), 2)

    with pytest.raises(LostError):
        asyncio.run(play())
    assert not one.leads


def test_a_deleted_lease_is_made_anew():
    server, one, _ = pair()

    async def play() -> None:
        await one.elected()
        server.store.remove(server.store.objects["Lease", "lmops", "operator"])
        keeping = asyncio.create_task(one.keep())
        await asyncio.sleep(0.2)
        keeping.cancel()

    asyncio.run(play())
    assert (holder(server), one.leads) == ("one", True)


def test_a_lost_reply_costs_one_turn():
    server, one, _ = pair()
    server.faults = lose_reply(2)
    asyncio.run(one.elected())

    assert (holder(server), one.leads) == ("one", True)


def test_row_10_a_deleted_lease_is_left_to_its_holder():
    server, one, two = pair()

    async def play() -> None:
        await one.elected()
        assert not await two._try()
        server.store.remove(server.store.objects["Lease", "lmops", "operator"])
        assert (await two._try(), two.leads, one.leads) == (False, False, True)
        assert await one._try()
        await asyncio.wait_for(two.elected(), 2)  # one is gone now

    asyncio.run(play())
    assert (holder(server), one.leads) == ("two", False)


def test_row_7_a_leader_leads_on_after_an_outage_in_which_nobody_else_could():
    server, one, _ = pair()

    async def play() -> None:
        await one.elected()
        keeping = asyncio.create_task(one.keep())
        server.faults = Faults(Fault("reset"))
        await asyncio.sleep(0.5)
        assert (one.leads, one.overdue > 0, keeping.done()) == (False, True, False)
        server.faults = NONE
        await asyncio.sleep(0.2)
        assert (one.leads, keeping.done()) == (True, False)
        keeping.cancel()

    asyncio.run(play())


def test_a_leader_that_hears_nothing_for_too_long_ends():
    server, one, _ = pair()

    async def play() -> None:
        await one.elected()
        server.faults = Faults(Fault("reset"))
        await asyncio.wait_for(one.keep(), 5)

    with pytest.raises(LostError):
        asyncio.run(play())
