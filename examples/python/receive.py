"""Takes webhooks: verifies them, and does the work of each event once. See ../README.md.

The endpoint's secret is in WEBHOOK_SECRET. Needs `pip install standardwebhooks`.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

LARGEST = 2**20  # bytes


def work(database: sqlite3.Connection, event: dict[str, Any]) -> None:
    """Yours: what the event is for, in the transaction that remembers it."""
    database.execute("INSERT INTO events VALUES (?)", (event["event_type"],))


def take(database: sqlite3.Connection, webhook_id: str, event: dict[str, Any]) -> bool:
    """Do the event's work; False if it was done before.

    The id and the work are one transaction: after a crash there are both or neither.
    """
    with database:
        try:
            database.execute("INSERT INTO seen VALUES (?)", (webhook_id,))
        except sqlite3.IntegrityError:
            return False
        work(database, event)
    return True


class Receiver(BaseHTTPRequestHandler):
    """One request; `webhook` and `database` are put in place by `main`."""

    webhook: Webhook
    database: sqlite3.Connection
    timeout = 10  # seconds that a sender may take

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(min(length, LARGEST))
        try:
            event = self.webhook.verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            print(f"refused: {error}", flush=True)
            self.answer(401)
            return
        # An exception in here is answered by nothing, and the event comes again.
        fresh = take(self.database, self.headers["webhook-id"], event)
        said = event["payload"] if fresh else "again: nothing to do"
        print(f"{event['event_type']} {event['event_id']} {said}", flush=True)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    """Parse the command line, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--database", default="received.db")
    given = parser.parse_args()
    database = sqlite3.connect(given.database)
    database.execute("CREATE TABLE IF NOT EXISTS seen (webhook_id TEXT PRIMARY KEY)")
    database.execute("CREATE TABLE IF NOT EXISTS events (event_type TEXT)")
    Receiver.webhook = Webhook(os.environ["WEBHOOK_SECRET"])
    Receiver.database = database
    HTTPServer(("127.0.0.1", given.port), Receiver).serve_forever()


if __name__ == "__main__":
    main()
