"""A webhook endpoint that verifies signatures and can fail on purpose. See README.md here."""

from __future__ import annotations

import argparse
import json
import os
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

ENDPOINT = Path("endpoint.json")  # the endpoint as it was created, with its secret


def create(server: str, port: int) -> None:
    """Make an endpoint for this receiver, with the API key of PENSTOCK_KEY."""
    wanted = {"target": f"http://127.0.0.1:{port}/hooks", "description": "examples/receiver.py"}
    request = urllib.request.Request(
        f"{server}/v1/endpoints",
        json.dumps(wanted).encode(),
        {
            "Authorization": f"Bearer {os.environ['PENSTOCK_KEY']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request) as answer:
        ENDPOINT.touch(mode=0o600)
        ENDPOINT.write_bytes(answer.read())


def serve(port: int, failures: int) -> None:
    """Take deliveries; answer 503 to the first `failures` attempts of each event."""
    webhook = Webhook(json.loads(ENDPOINT.read_text())["secret"])
    attempts: Counter[str] = Counter()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                event = webhook.verify(body, dict(self.headers))
            except WebhookVerificationError as error:
                print(f"refused: {error}", flush=True)
                self.send_error(401)
                return
            attempts[event["event_id"]] += 1
            number = attempts[event["event_id"]]
            status = 503 if number <= failures else 204
            shown = event["payload"] if status == 204 else ""
            print(f"{event['event_type']} attempt {number}: {status} {shown}".rstrip(), flush=True)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--fail", type=int, default=0, metavar="N")
    parser.add_argument("--create", metavar="URL", help="make the endpoint at this server, and end")
    given = parser.parse_args()
    if given.create:
        create(given.create, given.port)
    else:
        serve(given.port, given.fail)


if __name__ == "__main__":
    main()
