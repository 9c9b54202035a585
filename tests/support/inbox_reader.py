"""A reader of the inbox, to be killed: leases, handles, acknowledges, and writes down what it did.

``python inbox_reader.py URL TOKEN EVENT_TYPE LOG``: stdlib only, one line of JSON for each lease
and each acknowledgement, until it is ended.
"""

from __future__ import annotations

import json
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

LEASE = 2  # seconds


def main() -> None:
    url, token, event_type, log = sys.argv[1:]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    chance = random.Random()

    def call(path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{url}/v1/inbox/{path}", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    with Path(log).open("a", buffering=1) as lines:
        while True:
            asked = {
                "limit": chance.randint(1, 40),
                "lease_seconds": LEASE,
                "event_types": [event_type],
                "wait": 1,
            }
            began = time.monotonic()
            leased = call("lease", asked)
            ids = [event["event_id"] for event in leased["events"]]
            print(json.dumps({"leased": ids, "at": time.time()}), file=lines)
            if not ids:
                continue
            time.sleep(chance.random() * 0.01)
            # Some readers say what they have done little by little.
            half = chance.randint(1, len(ids))
            for part in (ids[:half], ids[half:]):
                if part:
                    body = {"event_ids": part, "lease_id": leased["lease_id"]}
                    results = call("ack", body)["results"]
                    held = time.monotonic() - began
                    print(json.dumps({"results": results, "held": held}), file=lines)


if __name__ == "__main__":
    main()
