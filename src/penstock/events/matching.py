"""Which endpoints an event type goes to.

A pattern is an event type as it is, ``prefix.*`` (everything that begins with ``prefix.``) or
``*``. Accept matches in memory: the parsed endpoints of an account are kept under the
account's `endpoints_version`, which every change to its endpoints raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from penstock.events.filters import Filter, compile_filter
from penstock.storage import Tx, sql

# Accounts and event types are the callers' to choose, so what is kept of them has an end.
_KEPT_ACCOUNTS: Final = 10_000
_KEPT_TYPES: Final = 1_000

_ENDPOINTS = sql("""
SELECT id, lane, event_types, filter FROM endpoints WHERE account = :account ORDER BY id
""")
_CONTENTS = sql("SELECT payload, metadata FROM events WHERE id = :id")


def matches(patterns: Iterable[str], event_type: str) -> bool:
    """Whether any of the patterns covers the event type."""
    return any(
        pattern == event_type
        or pattern == "*"
        or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint as accept sees it."""

    id: str
    lane: str
    filter: Filter | None = None


@lru_cache(maxsize=4096)
def stored_filter(text: str | None) -> Filter | None:
    """The filter of an endpoint from the text that is stored of it."""
    return None if text is None else compile_filter(json.loads(text))


def passing(
    subscribers: tuple[Subscriber, ...], payload: str, metadata: str | None
) -> tuple[Subscriber, ...]:
    """Those whose filter the event's contents (JSON, as stored) pass."""
    if all(subscriber.filter is None for subscriber in subscribers):
        return subscribers
    contents = json.loads(payload), None if metadata is None else json.loads(metadata)
    return tuple(s for s in subscribers if s.filter is None or s.filter.matches(*contents))


class Matcher:
    """The endpoints of one account at one version; answers are remembered by event type."""

    __slots__ = ("_answers", "_subscribers", "version")

    def __init__(
        self, version: int, subscribers: Iterable[tuple[Subscriber, Sequence[str]]]
    ) -> None:
        self.version = version
        self._subscribers = tuple(subscribers)
        self._answers: dict[str, tuple[Subscriber, ...]] = {}

    def match(self, event_type: str) -> tuple[Subscriber, ...]:
        """The endpoints that ask for this event type, in id order, whatever they filter."""
        answer = self._answers.get(event_type)
        if answer is None:
            answer = tuple(
                subscriber
                for subscriber, patterns in self._subscribers
                if matches(patterns, event_type)
            )
            if len(self._answers) >= _KEPT_TYPES:
                self._answers.clear()
            self._answers[event_type] = answer
        return answer

    def subscribers(
        self, event_type: str, payload: str, metadata: str | None
    ) -> tuple[Subscriber, ...]:
        """The endpoints that take an event of these contents (JSON), in id order."""
        return passing(self.match(event_type), payload, metadata)

    def subscribers_of(self, tx: Tx, event_id: str, event_type: str) -> tuple[Subscriber, ...]:
        """The same for an event that is stored."""
        asking = self.match(event_type)
        if all(subscriber.filter is None for subscriber in asking):
            return asking
        row = tx.one(_CONTENTS, id=event_id)
        return () if row is None else passing(asking, *row)

    def named(self, event_type: str) -> tuple[Subscriber, ...]:
        """Those of them that ask for it by more than ``*``."""
        return tuple(
            subscriber
            for subscriber, patterns in self._subscribers
            if matches((pattern for pattern in patterns if pattern != "*"), event_type)
        )


class Catalogue:
    """The matchers of all accounts that accepted something lately."""

    __slots__ = ("_matchers",)

    def __init__(self) -> None:
        self._matchers: dict[str, Matcher] = {}

    def matcher(self, tx: Tx, account: str, version: int) -> Matcher:
        """The account's matcher at `version`, as it was read in this transaction."""
        known = self._matchers.get(account)
        if known is not None and known.version == version:
            return known
        fresh = Matcher(
            version,
            [
                (Subscriber(id_, lane, stored_filter(text)), tuple(json.loads(patterns)))
                for id_, lane, patterns, text in tx.rows(_ENDPOINTS, account=account)
            ],
        )
        if len(self._matchers) >= _KEPT_ACCOUNTS:
            self._matchers.clear()
        self._matchers[account] = fresh
        return fresh
