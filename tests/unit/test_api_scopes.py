from __future__ import annotations

import pytest

from penstock.api.scopes import ALL, AREAS, expand, normalize


def test_write_implies_read_of_the_same_area_only() -> None:
    assert expand(["events:write"]) == {"events:write", "events:read"}
    assert expand(["events:read"]) == {"events:read"}


def test_everything_is_every_area() -> None:
    assert expand(["*"]) == ALL
    assert len(ALL) == 2 * len(AREAS)


def test_what_is_not_a_scope_grants_nothing() -> None:
    assert expand(["openid", "admin:write", "events", "", ":write", "events:write:x"]) == set()


def test_without_scopes_is_everything() -> None:
    assert normalize(None) == ["*"]
    assert normalize(["*"]) == ["*"]
    assert normalize(["jobs:read", "events:write", "jobs:read"]) == ["events:write", "jobs:read"]


@pytest.mark.parametrize(
    "scopes", [[], ["*", "events:read"], ["event:read"], ["events:read "], ["events:delete"]]
)
def test_a_list_that_says_too_little_or_too_much(scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="scope"):
        normalize(scopes)
