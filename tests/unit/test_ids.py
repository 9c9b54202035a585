from __future__ import annotations

import itertools
import os
import re
import threading
import time
import uuid

import pytest

from penstock import ids
from penstock.ids import new_id

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def _uuid(identifier: str) -> uuid.UUID:
    value = 0
    for digit in identifier.partition("_")[2]:
        value = value * 32 + CROCKFORD.index(digit)
    return uuid.UUID(int=value)


def test_an_id_is_a_prefix_and_a_uuid_version_7_in_base32() -> None:
    before = time.time_ns() // 1_000_000
    identifier = new_id("evt")
    after = time.time_ns() // 1_000_000
    assert re.fullmatch(rf"evt_[{CROCKFORD}]{{26}}", identifier)
    parsed = _uuid(identifier)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= after + 1


def test_ids_strictly_increase() -> None:
    made = [new_id("x") for _ in range(20_000)]
    assert all(a < b for a, b in itertools.pairwise(made))


def test_ids_increase_when_the_wall_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id("x")
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    second = new_id("x")
    assert first < second
    assert new_id("x") > second


def test_ids_of_many_threads_differ() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def make(into: list[str]) -> None:
        into.extend(new_id("x") for _ in range(2_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identifier for part in made for identifier in part}) == 16_000


def test_neighbours_of_one_millisecond_cannot_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 4_102_444_800_000_000_000)
    monkeypatch.setattr(ids, "_last", 0)
    values = [_uuid(new_id("x")).int for _ in range(100)]
    steps = {b - a for a, b in itertools.pairwise(values)}
    assert len(steps) == 99


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_repeat_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 4_102_444_800_000_000_000)
    monkeypatch.setattr(ids, "_last", 0)
    new_id("x")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "\n".join(new_id("x") for _ in range(50)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = set(pipe.read().splitlines())
    os.waitpid(child, 0)
    ours = {new_id("x") for _ in range(50)}
    assert len(theirs) == 50
    assert not ours & theirs
