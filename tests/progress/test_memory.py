"""What is remembered, and how long."""

from __future__ import annotations

from lmops.memory import Memory


def test_a_value_is_forgotten_after_its_time_and_the_oldest_when_there_are_too_many():
    now = [0.0]
    memory = Memory[str, int](seconds=10, size=2, clock=lambda: now[0])
    memory.put("a", 1)
    now[0] = 5
    memory.put("b", 2)

    assert [memory.get(key) for key in "ab"] == [1, 2]
    now[0] = 10
    assert [memory.get(key) for key in "ab"] == [None, 2]
    memory.put("c", 3)
    memory.put("b", 4)
    memory.put("d", 5)
    assert ([memory.get(key) for key in "bcd"], len(memory)) == ([4, None, 5], 2)
    memory.drop("b")
    assert memory.get("b") is None
