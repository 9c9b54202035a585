"""Commands that look after a running server: endpoints, dead work, lanes, jobs, parcels."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.command import cli
from support.process import Ran, Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


class Shell:
    """Types commands for one server."""

    def __init__(self, data: Path) -> None:
        self.data = data

    async def run(self, *arguments: str, **options: Any) -> Ran:
        # In a thread: what the commands ask for comes from this event loop.
        return await asyncio.to_thread(cli, *arguments, data=self.data, **options)

    async def json(self, *arguments: str, **options: Any) -> Any:
        ran = await self.run(*arguments, "--json", **options)
        assert (ran.code, ran.stderr) == (0, ""), ran
        return ran.document

    async def until(self, arguments: tuple[str, ...], **wanted: Any) -> Any:
        """The document, once its members are as wanted."""
        deadline = time.monotonic() + 60
        while True:
            found = await self.json(*arguments)
            if all(found[name] == value for name, value in wanted.items()):
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)


@pytest.fixture
def shell(server: Up) -> Shell:
    return Shell(server.data)


async def test_an_endpoint_from_its_creation_to_its_end(
    shell: Shell, receiver: Receiver, topic: str
) -> None:
    options = ("--events", topic, "--description", "Shop", "--header", "X-Token=hidden")
    made = await shell.json(
        *("endpoints", "create", receiver.url("/e"), *options),
        *("--timeout", "5s", "--rate-limit", "50", "--schedule", "1s,2m", "--max-in-flight", "4"),
        *("--filter", '{"payload.total": {"gte": 10}}', "--on-permanent", "dead"),
    )
    id_ = made["endpoint_id"]
    assert (made["timeout"], made["rate_limit"], made["schedule"]) == (5.0, 50.0, [1.0, 120.0])
    assert (made["event_types"], made["max_in_flight"]) == ([topic], 4)
    assert made["secret"].startswith("whsec_")

    shown = await shell.run("endpoints", "show", id_)
    assert "hidden" not in shown.stdout
    assert made["secret"] not in shown.stdout
    assert "Shop" in shown.stdout
    listed = await shell.run("endpoints", "list")
    assert id_ in listed.stdout

    sent = await shell.json("endpoints", "test", id_)
    await shell.until(("events", "show", sent["event_id"]), status="delivered")
    (push,) = receiver.at("/e")
    assert push.verifies(made["secret"])

    rotated = await shell.json("endpoints", "rotate", id_, "--overlap", "1h")
    assert rotated["secret"] not in ("", made["secret"])
    changed = await shell.json(
        *("endpoints", "update", id_, "--rate-limit", "none", "--filter", "none"),
        *("--schedule", "none", "--header", "none", "--description", "Shop 2"),
    )
    assert (changed["rate_limit"], changed["filter"], changed["schedule"]) == (None, None, None)
    assert (changed["header_names"], changed["description"]) == ([], "Shop 2")

    assert (await shell.json("endpoints", "disable", id_))["enabled"] is False
    waiting = await shell.json("events", "send", topic, "{}")
    event = await shell.run("events", "show", waiting["event_id"])
    assert "disabled" in event.stdout
    assert (await shell.json("endpoints", "enable", id_))["enabled"] is True
    await shell.until(("events", "show", waiting["event_id"]), status="delivered")
    recovered = await shell.json("endpoints", "recover", id_, "--since", "2020-01-01T00:00:00Z")
    assert recovered["replay_id"].startswith("rpl_")

    assert await shell.json("endpoints", "delete", id_) == {"deleted": id_}
    assert (await shell.run("endpoints", "show", id_)).code == 1


async def test_dead_work_is_seen_and_sent_again_or_put_away(
    shell: Shell, receiver: Receiver, topic: str
) -> None:
    refuse = receiver.url("/dead")
    receiver.script("/dead", [422])
    made = await shell.json(
        "endpoints", "create", refuse, "--events", topic, "--on-permanent", "dead"
    )
    lane = f"delivery:{made['endpoint_id']}"
    for _ in range(3):
        event = await shell.json("events", "send", topic)
        await shell.until(("events", "show", event["event_id"]), status="failed")

    found = await shell.json("dead", "list", "--kind", "delivery", "--lane", lane)
    ids = [each["id"] for each in found["items"]]
    assert len(ids) == 3
    assert found["more"] is False
    first = await shell.run("dead", "list", "--lane", lane, "--limit", "1")
    assert "the first 1" in first.stderr
    assert ids[0] in first.stdout
    assert "422" in (await shell.run("dead", "show", ids[0])).stdout
    counts = await shell.json("dead", "counts")
    assert counts["kinds"]["delivery"]["count"] >= 3

    # Nobody can be asked here, and one who says no is heard.
    unasked = await shell.run("dead", "redrive", "--lane", lane)
    assert (unasked.code, "--yes" in unasked.stderr) == (2, True)
    no = await shell.run("dead", "drop", "--lane", lane, stdin="n\n", terminal=True)
    assert (no.code, "nothing was done" in no.stderr) == (1, True)
    assert len((await shell.json("dead", "list", "--lane", lane))["items"]) == 3

    receiver.script("/dead", [200])
    assert (await shell.json("dead", "redrive", ids[0]))["moved"] == 1
    part = await shell.run("dead", "redrive", ids[1], "dlv_unknown", "--json")
    assert (part.code, part.document["moved"]) == (3, 1)
    dropped = await shell.run(
        "dead", "drop", "--lane", lane, "--reason", "http 422", stdin="y\n", terminal=True
    )
    assert (dropped.code, dropped.stdout) == (0, "Put away: 1 (1 of delivery)\n")
    none = await shell.run("dead", "redrive", ids[2])
    assert none.code == 1
    assert await shell.json("dead", "list", "--lane", lane) == {"items": [], "more": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("redrive",), "--all takes every one"),
        (("drop", "dlv_1", "--all"), "not both"),
        (("redrive", "--all", "--kind", "nonsense", "--yes"), "The kinds are"),
    ],
)
async def test_dead_work_must_be_chosen(
    shell: Shell, arguments: tuple[str, ...], says: str
) -> None:
    ran = await shell.run("dead", *arguments)

    assert (ran.code, ran.stdout) == (2, "")
    assert says in ran.stderr


async def test_a_lane_is_paused_limited_and_held(
    shell: Shell, receiver: Receiver, topic: str
) -> None:
    made = await shell.json("endpoints", "create", receiver.url("/lane"), "--events", topic)
    lane = f"delivery:{made['endpoint_id']}"

    assert (await shell.json("lanes", "pause", lane))["state"] == "paused"
    stopped = await shell.json("lanes", "list", "--stopped", "--kind", "delivery", "--limit", "0")
    assert lane in [each["lane"] for each in stopped["items"]]
    assert (await shell.json("lanes", "resume", lane))["state"] == "passing"
    limited = await shell.json("lanes", "set", lane, "--rate", "2.5", "--max-in-flight", "3")
    assert (limited["rate"], limited["max_in_flight"]) == (2.5, 3)
    assert (await shell.json("lanes", "set", lane, "--rate", "none"))["rate"] is None

    held = await shell.json("lanes", "open", lane, "--for", "30m", "--reason", "they move house")
    assert (held["state"], held["held"]) == ("circuit_open", "open")
    event = await shell.json("events", "send", topic)
    shown = await shell.run("lanes", "show", lane)
    assert "they move house" in shown.stdout
    released = await shell.json("lanes", "release", lane)
    assert released["held"] is None
    await shell.until(("events", "show", event["event_id"]), status="delivered")
    closed = await shell.json("lanes", "close", lane, "--for", "1h", "--reason", "trust them")
    assert closed["held"] == "closed"

    assert (await shell.run("lanes", "set", lane)).code == 2
    assert (await shell.run("lanes", "set", lane, "--rate", "fast")).code == 2
    long = await shell.run("lanes", "open", lane, "--for", "9d", "--reason", "x")
    assert long.code == 2
    assert (await shell.run("lanes", "show", "delivery:none/at all")).code == 1


async def test_events_are_listed_shown_and_deleted(shell: Shell, topic: str) -> None:
    empty = await shell.run("events", "list", "--event-type", topic)
    assert "penstock events send" in empty.stdout
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    later = ("--deliver-at", soon, "--ordering-key", "k")
    sent = [await shell.json("events", "send", topic, '{"a": 1}', *later) for _ in range(2)]

    page = await shell.json("events", "list", "--event-type", topic, "--limit", "1")
    assert [each["event_id"] for each in page["items"]] == [sent[1]["event_id"]]
    assert page["more"] is True
    rest = await shell.json("events", "list", "--event-type", topic, "--limit", "0")
    assert len(rest["items"]) == 2
    shown = await shell.json("events", "show", sent[0]["event_id"])
    assert (shown["payload"], shown["ordering_key"]) == ({"a": 1}, "k")
    assert '{"a": 1}' in (await shell.run("events", "show", sent[0]["event_id"])).stdout
    await shell.json("events", "delete", sent[0]["event_id"])
    far = await shell.run("events", "send", topic, "--deliver-at", "2099-01-01T00:00:00Z")
    assert (far.code, far.stdout) == (2, "")
    assert "/deliver_at: It is more than a year ahead [validation_failed]" in far.stderr
    gone = await shell.run("events", "show", sent[0]["event_id"])
    assert (gone.code, len(gone.stderr.splitlines())) == (1, 1)


async def test_parcels_are_added_seen_and_left(shell: Shell, tmp_path: Path) -> None:
    added = await shell.json(
        "shipments", "add", "sandbox", "SBXDELIVERED77", "--label", "Lamp", "--reference", "o-77"
    )
    id_ = added["shipment_id"]
    found = await shell.until(("shipments", "show", id_), status="delivered")
    assert found["scans"]
    shown = await shell.run("shipments", "show", id_)
    assert "Delivered, left with the recipient" in shown.stdout
    listed = await shell.run("shipments", "list", "--search", "o-77")
    assert id_ in listed.stdout
    assert "Lamp" in listed.stdout
    (tmp_path / "parcels.csv").write_text("tracking_number\nSBXINTRANSIT77\n")
    imported = await shell.json(
        "shipments", "import", str(tmp_path / "parcels.csv"), "--carrier", "sandbox"
    )
    assert imported["import_id"]
    stopped = await shell.json("shipments", "add", "sandbox", "SBXPRETRANSIT77")
    stopped = await shell.json("shipments", "stop", stopped["shipment_id"])
    assert stopped["state"] != "active"
    await shell.json("shipments", "delete", id_)
    assert (await shell.run("shipments", "refresh", id_)).code == 1
    missing = await shell.run("shipments", "import", "none.csv")
    assert (missing.code, "No such file" in missing.stderr) == (2, True)


async def test_a_file_is_scored_by_the_server(shell: Shell, tmp_path: Path, server: Up) -> None:
    async with Api(server.url, server.token) as api:
        template = (await api.call("GET", "/v1/templates/churn.csv")).body
    source, out = tmp_path / "customers.csv", tmp_path / "scored.csv"
    source.write_bytes(template)

    made = await shell.json("predictions", "create", str(source), "--out", str(out))
    assert (made["status"], made["rows_scored"]) == ("COMPLETED", 2)
    assert len(out.read_text().splitlines()) == 3
    again = await shell.json(
        "predictions", "result", made["prediction_id"], "--out", str(tmp_path / "x.parquet")
    )
    assert again["bytes"] > 100
    assert made["prediction_id"] in (await shell.run("predictions", "list")).stdout
    assert "demonstration" in (await shell.run("predictions", "show", made["prediction_id"])).stdout
    # One row that cannot be used: done in part.
    source.write_bytes(template + b"bad" + b",?" * template.splitlines()[0].count(b",") + b"\r\n")
    part = await shell.run("predictions", "create", str(source), "--wait")
    assert part.code == 3
    id_ = part.stdout.split()[1]
    errors = await shell.json("predictions", "errors", id_, "--out", str(tmp_path / "errors.csv"))
    assert errors["bytes"] > 0
    assert await shell.json("predictions", "delete", id_) == {"deleted": id_}
    # Columns that are called something else are asked for, once.
    source.write_bytes(template.replace(b"tenure_months", b"wherewithal"))
    asked = await shell.run("predictions", "create", str(source), "--wait")
    assert (asked.code, asked.stdout) == (2, "")
    assert "--map tenure_months=" in asked.stderr
    told = ("--map", "tenure_months=wherewithal")
    mapped = await shell.json("predictions", "create", str(source), "--wait", *told)
    assert mapped["status"] == "COMPLETED"
    source.write_bytes(b"no,such\n1,2\n")
    refused = await shell.run("predictions", "create", str(source), "--wait")
    assert refused.code == 2
    assert (await shell.run("predictions", "create", str(source), "--map", "x")).code == 2
    assert (await shell.run("predictions", "create", "none.csv")).code == 2


async def test_a_model_is_trained_promoted_and_deleted(shell: Shell, tmp_path: Path) -> None:
    past = tmp_path / "past.csv"
    left = ["yes" if n % 60 < 20 else "no" for n in range(300)]
    rows = [f"c{n},{n % 60},{'AB'[n % 3 == 0]},{left[n]}" for n in range(300)]
    past.write_text("\n".join(["customer,tenure,plan,churned", *rows]) + "\n")
    train = ("models", "train", str(past), "--label", "churned", "--id", "customer", "--wait")

    made = await shell.json(*train, "--name", "cli", "--positive", "yes")
    assert (made["status"], made["version"], made["live"]) == ("READY", 1, True)
    id_ = made["model_id"]
    assert id_ in (await shell.run("models", "list")).stdout
    assert "READY" in (await shell.run("models", "show", id_)).stdout
    assert (await shell.json("models", "promote", id_, "1"))["live_version"] == 1
    assert (await shell.run("models", "promote", id_, "9")).code == 1
    # Which value means churned cannot be told from these.
    past.write_text(past.read_text().replace("yes", "a").replace("no", "b"))
    asked = await shell.run(*train, "--name", "cli", "--json")
    assert (asked.code, asked.document["status"]) == (2, "FAILED")
    assert asked.document["question"]
    assert await shell.json("models", "delete", id_) == {"deleted": id_}
    assert (await shell.run("models", "rollback", id_)).code == 1


async def test_jobs_are_listed_where_there_are_none(shell: Shell) -> None:
    assert await shell.json("jobs", "list") == {"items": [], "more": False}
    assert "write-jobs" in (await shell.run("jobs", "list")).stdout
    unknown = await shell.run("jobs", "cancel", "job_unknown")
    assert (unknown.code, len(unknown.stderr.splitlines())) == (1, 1)


async def test_a_profile_and_options_reach_a_server_elsewhere(
    server: Up, tmp_path: Path, topic: str
) -> None:
    key = json.loads(cli("keys", "create", "--name", "far", "--json", data=server.data).stdout)
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    nowhere = tmp_path / "none"
    added = cli(
        *("profiles", "add", "far", "--url", server.url, "--key", "-"),
        env=env,
        stdin=key["key"] + "\n",
    )
    assert added.code == 0, added

    for options in (("--profile", "far"), ("--url", server.url, "--key", key["key"])):
        sent = cli("events", "send", topic, "{}", "--json", *options, data=nowhere, env=env)
        assert sent.document["event_type"] == topic
    listed = cli("keys", "list", "--json", "--profile", "far", data=nowhere, env=env)
    assert key["id"] in [each["id"] for each in listed.document["items"]]
    assert not nowhere.exists()
    revoked = cli("keys", "revoke", key["id"], "--json", "--profile", "far", data=nowhere, env=env)
    assert revoked.document == {"revoked": key["id"]}
    refused = cli("events", "list", "--profile", "far", data=nowhere, env=env)
    assert (refused.code, "invalid_token" in refused.stderr) == (1, True)
