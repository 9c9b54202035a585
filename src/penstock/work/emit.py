"""The port by which one service tells the others: it emits an event.

Services never call each other. `events` implements the port, the runtime wires it, and where
events are switched off it is `nobody`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.storage import Tx

# (tx, account, event_type, payload, source_key): in the transaction that made the fact true;
# `source_key` is unique per account, so a fact is told once however often it is emitted.
Emit = Callable[[Tx, str, str, Mapping[str, Any], str], None]


def nobody(
    tx: Tx, account: str, event_type: str, payload: Mapping[str, Any], source_key: str
) -> None:
    """Tells nobody."""
