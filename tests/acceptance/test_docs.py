"""What the documentation tells people to type, typed.

The fenced blocks of a page are played in order, in one folder. Words after the language say how:

* ``python file=NAME``: saved under that name (any language).
* ``sh``: run in the reader's main terminal, one shell for the whole page. With ``until=TEXT`` it is
  repeated until the output holds the text.
* ``sh terminal=N ready=PORT``: left running in terminal N, after Ctrl-C for what ran there; the
  page goes on when something listens on the port.
* ``text output``: what the last ``sh`` block printed, where ``…`` stands for anything.
* ``text terminal=N``: what terminal N comes to show, at once or soon.
* ``text terminal=N interrupt``: Ctrl-C in that terminal.
* ``sh no-run``: not run (installing, mostly).

Other blocks are only there to be read.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from penstock.aws import secrets
from penstock.events import http, sign, why
from penstock.jobs import query as job_query
from penstock.settings import PREFIX, Settings
from penstock.tracking import columns, sheet
from penstock.tracking import why as tracking_why
from penstock.tracking.status import STATUSES
from support.nursery import possible, shim
from support.ports import reserved
from support.sqs_server import ENVIRONMENT, REGION, running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOON = 90.0  # seconds
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    words: Mapping[str, str]
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    for language, info, text in _FENCE.findall(page.read_text()):
        words = dict(word.partition("=")[::2] for word in shlex.split(info))
        found.append(Block(language, words, text))
    return found


def named(page: Path, name: str) -> str:
    """The contents of the page's file of that name."""
    return next(block.text for block in blocks(page) if block.words.get("file") == name)


def shows(expected: str, output: str) -> bool:
    """Whether the output holds these lines, with anything in the place of each …"""
    pattern = r".*?".join(re.escape(part.strip("\n")) for part in expected.split("…"))
    # An ellipsis on a line of its own stands for lines, also for none.
    return re.search(pattern, output, re.DOTALL) is not None


class Terminal:
    """A program left running; what it prints is kept."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.output = ""
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command.strip()}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + SOON
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                running = self._process.poll() is None and time.monotonic() < deadline
                assert running, f"nothing listens: {self.output}"
                time.sleep(0.05)

    def wait_to_show(self, text: str) -> None:
        deadline = time.monotonic() + SOON
        while not shows(text, self.output):
            assert time.monotonic() < deadline, f"{text!r} is not in: {self.output}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(SOON)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise
        finally:
            self._reader.join(SOON)
            assert self._process.stdout is not None
            self._process.stdout.close()


class Shell:
    """The reader's main terminal: one bash, so that variables stay."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f'{{\n{command}\n}} < /dev/null\necho "-- $?"\n')
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            # What curl prints need not end in a newline.
            before, mark, code = line.rpartition("-- ")
            if mark and code.strip().isdigit():
                output = "".join(lines) + before
                assert int(code) == 0, f"{command}\nended with {code}: {output}"
                return output
            lines.append(line)
        raise AssertionError(f"the shell ended at: {command}")

    def close(self) -> None:
        self._process.communicate("exit\n", timeout=SOON)


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, folder: Path, environment: Mapping[str, str], swaps: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.swaps = swaps  # what is written in the page -> what is there in this test
        self.terminals: dict[str, Terminal] = {}
        self.shell = Shell(folder, environment)
        self.output = ""

    def play(self, page: Path) -> None:
        # All at once: a port's number may hold what stands for another.
        written = re.compile("|".join(map(re.escape, self.swaps)))
        for block in blocks(page):
            self.do(block, written.sub(lambda found: self.swaps[found[0]], block.text))

    def do(self, block: Block, text: str) -> None:
        words = block.words
        terminal = words.get("terminal")
        if "file" in words:
            (self.folder / words["file"]).write_text(text)
        elif "output" in words:
            assert shows(text, self.output), f"{text}\nis not what came: {self.output}"
        elif terminal and "interrupt" in words:
            self.terminals.pop(terminal).interrupt()
        elif terminal and block.language == "text":
            self.terminals[terminal].wait_to_show(text)
        elif terminal:
            if terminal in self.terminals:
                self.terminals.pop(terminal).interrupt()
            started = Terminal(text, self.folder, self.environment)
            self.terminals[terminal] = started
            if "ready" in words:
                started.wait_for(int(self.swaps.get(words["ready"], words["ready"])))
                if text.startswith("penstock up"):  # it listens a moment before it can be found
                    started.wait_to_show("Penstock … runs at …")
        elif block.language == "sh" and "no-run" not in words:
            self.run(text, words.get("until"))

    def run(self, command: str, until: str | None) -> None:
        deadline = time.monotonic() + SOON
        self.output = self.shell.run(command)
        while until is not None and until not in self.output:
            assert time.monotonic() < deadline, f"{until!r} never came: {self.output}"
            time.sleep(0.2)
            self.output = self.shell.run(command)

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.shell.close)
            for terminal in self.terminals.values():
                stack.callback(terminal.interrupt)


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """`penstock` and `python` as the activated .venv has them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {"penstock": "-m penstock ", "python": ""}
    if possible(os.environ):
        del programs["penstock"]
        shim(folder)
    for name, command in programs.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}"$@"\n')
        path.chmod(0o755)
    return folder


@pytest.fixture
def environment(commands: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # nothing is compiled twice
    return kept | {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def reader(tmp_path: Path, environment: dict[str, str]) -> Iterator[Reader]:
    folder = tmp_path / "work"
    folder.mkdir()
    with reserved() as server, reserved() as receiver:
        swaps = {"8321": str(server), "9000": str(receiver)}
        someone = Reader(folder, environment | {"PENSTOCK_PORT": swaps["8321"]}, swaps)
        yield someone
        someone.close()


def test_readme(reader: Reader) -> None:
    reader.play(ROOT / "README.md")


def test_the_first_hour(reader: Reader) -> None:
    reader.play(DOCS / "tutorial" / "first-hour.md")


@pytest.mark.parametrize(
    "page",
    [
        "filter-events",
        "keep-and-delete-data",
        "keep-it-running",
        "keep-order",
        "look-after-work",
        "predict-churn",
        "predict-churn-with-a-server",
        "read-the-inbox",
        "replay-and-recover",
        "rotate-a-secret",
        "send-events",
        "send-mail-texts-and-queues",
        "track-parcels",
        "train-a-churn-model",
        "use-the-client",
        "write-jobs",
    ],
)
def test_how_to(reader: Reader, page: str) -> None:
    reader.play(DOCS / "how-to" / f"{page}.md")


@pytest.mark.postgres
def test_run_on_postgresql(new_postgres: Any, reader: Reader) -> None:
    page = DOCS / "how-to" / "run-on-postgresql.md"
    (written,) = re.findall(r"postgresql://\S+", page.read_text())
    reader.swaps[written] = new_postgres()
    reader.play(page)


@pytest.mark.postgres
def test_use_sqs(new_postgres: Any, reader: Reader) -> None:
    page = DOCS / "how-to" / "use-sqs.md"
    (written,) = re.findall(r"postgresql://\S+", page.read_text())
    with running() as server:
        for queue, file in (("events-dead", "dead.json"), ("events", "events.json"), ("jobs", "")):
            attributes = json.loads(named(page, file)) if file else {}
            server.sync(lambda queue=queue, its=attributes: server.create(queue, **its))
        reader.swaps |= {
            written: new_postgres(),
            "https://sqs.eu-west-1.amazonaws.com": server.url,
            "PENSTOCK_WAKEUPS=sqs": "PENSTOCK_WAKEUPS=sqs\n"
            f"PENSTOCK_AWS_ENDPOINT_URL={server.url}\nPENSTOCK_AWS_REGION={REGION}",
        }
        reader.environment |= ENVIRONMENT
        reader.run("export " + " ".join(f"{k}={v}" for k, v in ENVIRONMENT.items()), None)
        reader.play(page)


def test_examples(reader: Reader) -> None:
    for file in (ROOT / "examples").glob("*.py"):
        shutil.copy(file, reader.folder)
    reader.play(ROOT / "examples" / "README.md")


# ----------------------------------------------------------------- verification in four languages

RECEIVE = DOCS / "how-to" / "receive-webhooks.md"
BODY = '{"event_id":"evt_1","event_type":"order.created","payload":{"name":"Zoë"}}'.encode()


def messages() -> list[dict[str, Any]]:
    """Messages and whether they are to be believed."""
    secret, other = sign.generate_secret(), sign.generate_secret()
    now = int(time.time())
    keys = [sign.decode_secret(each) for each in (secret, other)]
    good = sign.headers(keys[:1], "evt_1", now, BODY)
    unsigned = {name: value for name, value in good.items() if name != sign.SIGNATURE}
    return [
        {"secret": secret, "headers": headers, "body": body.decode(), "good": believed}
        for headers, body, believed in (
            (good, BODY, True),
            (sign.headers(keys[::-1], "evt_1", now, BODY), BODY, True),  # while it is rotated
            # Not close to the limits of 300 s: a compiler may run before they are looked at.
            (sign.headers(keys[:1], "evt_1", now - 150, BODY), BODY, True),
            (good, BODY.replace(b"order", b"chaos"), False),
            (good | {sign.ID: "evt_2"}, BODY, False),
            (good | {sign.TIMESTAMP: str(now - 1)}, BODY, False),
            (sign.headers(keys[1:], "evt_1", now, BODY), BODY, False),
            (sign.headers(keys[:1], "evt_1", now - 400, BODY), BODY, False),
            (sign.headers(keys[:1], "evt_1", now + 600, BODY), BODY, False),
            (good | {sign.SIGNATURE: "v1,"}, BODY, False),
            (good | {sign.TIMESTAMP: "now"}, BODY, False),
            (unsigned, BODY, False),
        )
    ]


NODE = """
import { readFileSync } from "node:fs";
import { verify } from "./verify.mjs";
const believed = JSON.parse(readFileSync("messages.json")).map((one) => {
  try { return verify(one.secret, one.headers, Buffer.from(one.body)).event_id === "evt_1"; }
  catch { return false; }
});
console.log(JSON.stringify(believed));
"""
PHP = """<?php
require 'webhook.php';
echo json_encode(array_map(function (array $one): bool {
    try {
        $event = verify_webhook($one['secret'], $one['headers'], $one['body']);
        return $event['event_id'] === 'evt_1';
    } catch (RuntimeException) {
        return false;
    }
}, json_decode(file_get_contents('messages.json'), true)));
"""
GO = """package main

import (
	"encoding/json"
	"net/http"
	"os"
)

func main() {
	text, _ := os.ReadFile("messages.json")
	var messages []struct {
		Secret, Body string
		Headers      map[string]string
	}
	if err := json.Unmarshal(text, &messages); err != nil {
		panic(err)
	}
	believed := []bool{}
	for _, one := range messages {
		header := http.Header{}
		for name, value := range one.Headers {
			header.Set(name, value)
		}
		believed = append(believed, Verify(one.Secret, header, []byte(one.Body)) == nil)
	}
	json.NewEncoder(os.Stdout).Encode(believed)
}
"""


@pytest.mark.parametrize("file", ["with_package.py", "without_package.py"])
def test_verification_in_python(file: str) -> None:
    module: dict[str, Any] = {}
    exec(compile(named(RECEIVE, file), file, "exec"), module)
    for message in messages():
        try:
            event = module["verify"](
                message["secret"], message["headers"], message["body"].encode()
            )
            believed = event["event_id"] == "evt_1"
        except Exception:
            believed = False
        assert believed is message["good"], message


@pytest.mark.parametrize(
    ("program", "file", "driver", "text"),
    [
        (["node", "driver.mjs"], "verify.mjs", "driver.mjs", NODE),
        (["php", "driver.php"], "webhook.php", "driver.php", PHP),
        (["go", "run", "webhook.go", "driver.go"], "webhook.go", "driver.go", GO),
    ],
    ids=["node", "php", "go"],
)
def test_verification_elsewhere(
    tmp_path: Path, program: list[str], file: str, driver: str, text: str
) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    told = messages()
    (tmp_path / "messages.json").write_text(json.dumps(told))
    (tmp_path / file).write_text(named(RECEIVE, file))
    (tmp_path / driver).write_text(text)
    environment = os.environ | {"GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [message["good"] for message in told]


# ----------------------------------------------------------------- what pages say of the code


def _reasons(module: ModuleType) -> set[str]:
    """The codes that a module's functions return beside a sentence."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    codes = {
        str(node.value.elts[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Tuple)
        and isinstance(node.value.elts[0], ast.Constant)
    }
    assert len(codes) > 5
    return codes


def _explained(page: str) -> set[str]:
    """The codes that tables of a page begin their rows with."""
    text = (DOCS / "how-to" / f"{page}.md").read_text()
    rows = re.findall(r"^\| (`[a-z0-9_.]+`(?:, `[a-z0-9_.]+`)*) \|", text, re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([^`]+)`", row)}


def test_every_reason_to_wait_and_every_failure_is_explained() -> None:
    codes = _reasons(why) | set(get_args(http.FailureKind))
    assert _explained("understand-deliveries") == codes


def test_every_reason_of_a_job_to_wait_is_explained() -> None:
    assert _explained("look-after-work") == _reasons(job_query)


def test_all_that_can_be_said_of_a_shipment_is_explained() -> None:
    page = _explained("track-parcels")
    assert _reasons(tracking_why) | set(STATUSES) <= page
    faults = "".join(Path(module.__file__).read_text() for module in (columns, sheet))
    rows = set(re.findall(r"""[Ff]ault\(\s*(?:row|row\.number),\s*"([a-z_]+)\"""", faults))
    heads = {"missing_header", "duplicate_column", "unknown_column", "missing_column"}
    assert len(rows) > 10
    assert rows - heads <= page


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
    for page in [*pages, ROOT / "examples" / "README.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_setting_that_a_page_names_exists() -> None:

    known = {PREFIX + name.upper() for name in Settings.model_fields} | {
        "PENSTOCK_TEST_POSTGRES_URL",
        secrets.PASSWORD,
        secrets.KEY,
    }
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        assert set(re.findall(r"PENSTOCK_[A-Z0-9_]+", page.read_text())) <= known, page


def test_generated_parts_of_the_reference_are_up_to_date(environment: dict[str, str]) -> None:
    check = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
