from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.paging import Page, decode, encode
from penstock.api.problems import Problem

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
numbers = st.integers(-(2**63), 2**63 - 1)


def forged(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(texts, numbers)
def test_a_cursor_brings_its_key_back(text: str, number: int) -> None:
    cursor = encode(text, number)
    assert decode(cursor, str, int) == (text, number)
    assert all(c.isalnum() or c in "-_" for c in cursor)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!!!!",
        "ä",
        "\0",
        encode(1),  # of another list
        encode("a", "b"),
        forged("a"),
        forged({"a": 1}),
        forged([True]),
        forged([None]),
        forged(["\0"]),
        forged(["\ud800"]),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 500).decode(),
    ],
)
def test_a_cursor_that_was_not_made_here_is_refused(cursor: str) -> None:
    with pytest.raises(Problem) as caught:
        Page(cursor).after(str)
    assert caught.value.code == "bad_cursor"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_no_database_takes_is_refused(number: int) -> None:
    with pytest.raises(Problem):
        decode(forged([number]), int)


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_every_item_is_on_one_page(count: int, pages: int) -> None:
    everything = list(range(count))
    seen: list[int] = []
    page, turns = Page(limit=3), 0
    while True:
        turns += 1
        after = page.after(int)
        rest = [n for n in everything if after is None or n > after[0]]
        shown, cursor = page.of(rest[: page.limit + 1], lambda n: (n,))
        seen += shown
        if cursor is None:
            break
        page = Page(cursor, 3)
    assert seen == everything
    assert turns == pages
