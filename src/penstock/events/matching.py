"""Which endpoints an event type goes to.

A pattern is an event type as it is, ``prefix.*`` (everything that begins with ``prefix.``) or
``*``. Accept matches in memory: the parsed endpoints of an account are kept under the
account's `endpoints_version`, which every change to its endpoints raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.storage import Tx, sql

# Accounts and event types are the callers' to choose, so what is kept of them has an end.
_KEPT_ACCOUNTS: Final = 10_000
_KEPT_TYPES: Final = 1_000

_ENDPOINTS = sql("SELECT id, lane, event_types FROM endpoints WHERE account = :account ORDER BY id")


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
        """The endpoints that take this event type, in id order."""
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
                (Subscriber(id_, lane), tuple(json.loads(patterns)))
                for id_, lane, patterns in tx.rows(_ENDPOINTS, account=account)
            ],
        )
        if len(self._matchers) >= _KEPT_ACCOUNTS:
            self._matchers.clear()
        self._matchers[account] = fresh
        return fresh
