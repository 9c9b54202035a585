"""The image that PENSTOCK_TEST_IMAGE names, run as ECS and Lambda run it, by docker.

PENSTOCK_TEST_ENGINE names another engine, such as podman.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytestmark = pytest.mark.timeout(300)

IMAGE = os.environ.get("PENSTOCK_TEST_IMAGE")
# As the task definition says: nothing can be written but in /tmp, and nothing is permitted.
RUN = ["run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp"]


@pytest.fixture(scope="module")
def engine() -> str:
    if IMAGE is None:
        pytest.skip("no image was built: PENSTOCK_TEST_IMAGE names one")
    found = shutil.which(os.environ.get("PENSTOCK_TEST_ENGINE", "docker"))
    assert found, "there is no engine: PENSTOCK_TEST_ENGINE names one"
    return found


@pytest.fixture(scope="module")
def run(engine: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        assert IMAGE is not None
        return subprocess.run(
            [engine, *RUN, *options, IMAGE, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def test_it_is_penstock_and_not_root(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert run("--version").stdout.startswith("penstock ")
    program = "import os, lightgbm, numpy, pyarrow; print(os.getuid(), os.access('/app', os.W_OK))"
    found = run("-c", program, options=("--entrypoint=python",))
    assert found.stdout.split() == ["10001", "False"], found.stderr
    # Bytecode that is taken whatever the time of its source (PEP 552): nothing is compiled here.
    program = (
        "import pathlib; found = [p.open('rb').read(8)[4:] for p in"
        " pathlib.Path('/opt/penstock').rglob('*.pyc')];"
        " print(len(found) > 1000, set(found) == {b'\\1\\0\\0\\0'})"
    )
    found = run("-c", program, options=("--entrypoint=python",))
    assert found.stdout.split() == ["True", "True"], found.stderr


def test_a_worker_ends_well_when_it_is_asked_to(engine: str) -> None:
    assert IMAGE is not None
    name = f"penstock-test-{os.getpid()}"
    process = subprocess.Popen(
        [engine, *RUN, f"--name={name}", "-e", "PENSTOCK_DATA_DIR=/tmp/data", IMAGE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line)["event"])
            if seen[-1] == "worker_ready":
                break
        assert seen[-1:] == ["worker_ready"], seen
        subprocess.run([engine, "kill", "--signal=TERM", name], check=True, capture_output=True)
        rest = [json.loads(line)["event"] for line in process.stdout]
        assert "worker_shutdown" in rest
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Runtime(ThreadingHTTPServer):
    """Lambda's runtime API with a single invocation."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.given = False
        self.answer: bytes | None = None
        self.answered = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Runtime

    def do_GET(self) -> None:
        if self.server.given:
            self.server.answered.wait(60)
            return  # nothing follows, which ends the client
        self.server.given = True
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "1")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.server.answer = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answered.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_lambda_can_run_the_api_from_it(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """With predictions among the services; there is no database, and it says so."""
    queue = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    settings = {
        "PENSTOCK_DATABASE_URL": "postgresql://penstock@127.0.0.1:1/penstock",
        "PENSTOCK_OBJECTS": "s3://example/objects",
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_SERVICES": "events,predictions",
        "PENSTOCK_WAKEUPS": "sqs",
        "AWS_DEFAULT_REGION": "eu-west-1",
        **{
            f"PENSTOCK_SQS_{name}_QUEUE_URL": f"{queue}/{name.lower()}"
            for name in ("EVENTS", "JOBS", "PREDICTIONS")
        },
    }
    with Runtime() as runtime:
        serving = threading.Thread(target=runtime.serve_forever)
        serving.start()
        try:
            api = f"AWS_LAMBDA_RUNTIME_API=127.0.0.1:{runtime.server_port}"
            given = [f"--env={name}={value}" for name, value in settings.items()]
            options = ("--entrypoint=python", f"--env={api}", *given)
            handler = "penstock.aws.lambda_handlers.api"
            ended = run("-m", "awslambdaric", handler, options=options)
        finally:
            runtime.answered.set()
            runtime.shutdown()
            serving.join()
    assert runtime.answer is not None, ended.stderr
    answer = json.loads(runtime.answer)
    assert answer["statusCode"] == 503, answer
    assert json.loads(answer["body"])["code"] == "storage_unavailable"
