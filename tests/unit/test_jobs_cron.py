from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penstock import Penstock
from penstock.clock import from_datetime, to_datetime
from penstock.errors import JobError


def nightly() -> None: ...


def runs(schedule: str, zone: str, start: datetime, count: int) -> list[str]:
    """The next instants of the schedule, in UTC."""
    app = Penstock()

    @app.cron(schedule, tz=zone)
    def job() -> None: ...

    at = from_datetime(start)
    found = []
    for _ in range(count):
        at = app.crons["job"].next_after(at)
        found.append(f"{to_datetime(at):%m-%d %H:%M:%S}")
    return found


def test_hourly() -> None:
    start = datetime(2026, 1, 1, 0, 0, tzinfo=UTC)
    assert runs("0 * * * *", "UTC", start, 2) == ["01-01 01:00:00", "01-01 02:00:00"]


def test_seconds_may_come_first() -> None:
    start = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert runs("*/30 * * * * *", "UTC", start, 2) == ["01-01 00:00:30", "01-01 00:01:00"]


def test_a_fixed_hour_follows_the_zone_over_daylight_saving() -> None:
    # Berlin: 29 March 2026 goes from 02:00 to 03:00, 25 October from 03:00 back to 02:00.
    spring = datetime(2026, 3, 28, 0, 0, tzinfo=UTC)
    assert runs("0 9 * * *", "Europe/Berlin", spring, 3) == [
        "03-28 08:00:00",
        "03-29 07:00:00",
        "03-30 07:00:00",
    ]


def test_an_hour_that_is_skipped_in_spring_runs_once_after_the_gap() -> None:
    start = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    assert runs("30 2 * * *", "Europe/Berlin", start, 2) == ["03-29 01:00:00", "03-30 00:30:00"]


def test_an_hour_that_comes_twice_in_autumn_runs_once() -> None:
    start = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    assert runs("30 2 * * *", "Europe/Berlin", start, 2) == ["10-25 00:30:00", "10-26 01:30:00"]


def test_an_hourly_job_runs_in_each_of_the_hours_that_there_are() -> None:
    start = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    assert runs("0 * * * *", "Europe/Berlin", start, 4) == [
        "10-25 00:00:00",
        "10-25 01:00:00",
        "10-25 02:00:00",
        "10-25 03:00:00",
    ]


@pytest.mark.parametrize(
    ("schedule", "zone", "message"),
    [
        ("61 * * * *", "UTC", "not a cron schedule"),
        ("* * *", "UTC", "not a cron schedule"),
        ("0 0 30 2 *", "UTC", "not a cron schedule"),
        ("0 * * * *", "Europe/Nowhere", "not a time zone"),
        ("0 * * * *", "../etc/passwd", "not a time zone"),
    ],
)
def test_schedules_that_cannot_be_are_refused(schedule: str, zone: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        Penstock().cron(schedule, tz=zone)(nightly)


def test_a_scheduled_job_takes_no_arguments_that_must_be_given() -> None:
    app = Penstock()

    def job(n: int, m: int = 1) -> None: ...

    with pytest.raises(JobError, match="n has no default"):
        app.cron("0 * * * *")(job)  # type: ignore[arg-type]


def test_schedules_of_one_job_need_names() -> None:
    app = Penstock()

    @app.cron("0 8 * * *", name="morning")
    @app.cron("0 20 * * *", name="evening")
    @app.job(timeout="1h")
    def report() -> None: ...

    assert list(app.crons) == ["evening", "morning"]
    assert report.settings.timeout == 3600.0
    with pytest.raises(JobError, match="two schedules"):
        app.cron("0 9 * * *", name="morning")(report)
