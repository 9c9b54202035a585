"""Reads the inbox: leases events, handles them and acknowledges them. See ../README.md.

The address and the key of the server are in PENSTOCK_URL and PENSTOCK_KEY. SIGTERM or Ctrl-C ends
it once the event at hand is done; the others of its lease are given back. Needs Penstock's client.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from penstock import Client
from penstock.client import ApiError, InboxEvent, Lease, Unreachable

LIMIT = 10  # events to take at once
LEASE = 60  # seconds; handling so many events must not take longer
WAIT = 5  # seconds to wait for an event; ending may take as long
PAUSE = 2.0  # seconds after a failure


def handle(event: InboxEvent) -> None:
    """Yours: what the event is for. It may come twice; `event_id` tells."""
    print(f"{event.event_type} {event.event_id} order {event.payload['order']}", flush=True)


def work(penstock: Client, lease: Lease, stopping: list[int]) -> bool:
    """Handle a lease's events; whether any of it could be done."""
    begun = time.monotonic()
    done = []
    for event in lease.events:
        # What is not begun in half of the time is better given back.
        if stopping or time.monotonic() - begun > LEASE / 2:
            break
        try:
            handle(event)
            done.append(event.event_id)
        except Exception as error:
            # It is released below and comes again. Yours: put aside what fails for ever.
            print(f"{event.event_id} failed: {error!r}", file=sys.stderr, flush=True)
    rest = [event.event_id for event in lease.events if event.event_id not in done]
    if done:
        for each in penstock.inbox.ack(done, lease.lease_id):
            if each.outcome == "lease_lost":
                print(f"{each.event_id} took too long, and comes again", file=sys.stderr)
    if rest:
        penstock.inbox.release(rest, lease.lease_id)
    return bool(done)


def main() -> None:
    """Parse the command line, and read until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("event_types", nargs="*", help="such as order.created or 'order.*'")
    given = parser.parse_args()
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    with Client() as penstock:
        while not stopping:
            try:
                lease = penstock.inbox.lease(
                    event_types=given.event_types, limit=LIMIT, lease_seconds=LEASE, wait=WAIT
                )
                if lease.events and not work(penstock, lease, stopping):
                    time.sleep(PAUSE)
            except (ApiError, Unreachable) as error:
                # What was leased meanwhile comes again when its lease is over.
                if isinstance(error, ApiError) and error.status != 429 and error.status < 500:
                    raise SystemExit(f"refused: {error}") from None
                print(f"{error}; again in {PAUSE:g} s", file=sys.stderr, flush=True)
                time.sleep(PAUSE)


if __name__ == "__main__":
    main()
