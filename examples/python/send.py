"""Sends one event; repeating it is harmless. See ../README.md.

The address and the key of the server are in PENSTOCK_URL and PENSTOCK_KEY. Only the standard
library is needed; `penstock.client.Client` does the same in one call.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

PATIENCE = 60.0  # seconds


def send(event_type: str, payload: dict[str, Any], key: str) -> dict[str, Any]:
    """The accepted event. `key` is the same on every try, so the event is stored once."""
    request = urllib.request.Request(
        f"{os.environ['PENSTOCK_URL']}/v1/events",
        json.dumps({"event_type": event_type, "payload": payload}).encode(),
        {
            "Authorization": f"Bearer {os.environ['PENSTOCK_KEY']}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        },
    )
    deadline, pause = time.monotonic() + PATIENCE, 0.25
    while True:
        wait = pause
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 429 and error.code < 500:
                    raise SystemExit(f"refused: {error.read().decode()}") from None
                asked = error.headers.get("Retry-After", "")
                wait = max(pause, float(asked) if asked.isdecimal() else 0.0)
                reason = f"the server answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            # Nobody knows whether the event was stored. The key makes asking again safe.
            reason = str(error)
        if time.monotonic() + wait > deadline:
            raise SystemExit(f"not sent: {reason}")
        print(f"{reason}; again in {wait:g} s", file=sys.stderr, flush=True)
        time.sleep(wait)
        pause = min(8.0, pause * 2)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("event_type", help="such as order.created")
    parser.add_argument("payload", type=json.loads, help="a JSON object")
    parser.add_argument(
        "--key", default=str(uuid.uuid4()), help="best something of yours, such as order-1042"
    )
    given = parser.parse_args()
    event = send(given.event_type, given.payload, given.key)
    print(event["event_id"])


if __name__ == "__main__":
    main()
