"""Which queue the wake-ups of each kind of work go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.backends import KINDS, queues
from penstock.errors import SettingsError
from penstock.runtime import open_runtime
from penstock.schema import migrate
from penstock.settings import SERVICES, load_settings

pytestmark = pytest.mark.anyio

EVENTS = "https://sqs.eu-west-1.amazonaws.com/123456789012/events"
JOBS = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"


async def test_every_kind_of_work_has_a_queue(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, services=",".join(SERVICES), database_url="")
    migrate(settings)
    async with open_runtime(settings, isolate=False) as runtime:
        kinds = set(runtime.worker.lines)
    assert kinds == {kind for service in SERVICES for kind in KINDS[service]}


def test_queues_go_by_service() -> None:
    given = load_settings(
        services="events", sqs_events_queue_url=EVENTS, sqs_jobs_queue_url=JOBS, database_url=""
    )
    assert queues(given) == {"delivery": EVENTS, "fanout": EVENTS, "replay": EVENTS, "job": JOBS}


def test_a_missing_queue_is_named() -> None:
    for given, missing in (
        ({"sqs_jobs_queue_url": JOBS}, "PENSTOCK_SQS_EVENTS_QUEUE_URL"),
        ({"sqs_events_queue_url": EVENTS}, "PENSTOCK_SQS_JOBS_QUEUE_URL"),
    ):
        with pytest.raises(SettingsError, match=missing):
            queues(load_settings(services="events", database_url="", **given))
