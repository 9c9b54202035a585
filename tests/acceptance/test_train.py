"""`penstock train` as it is called: exit codes, sentences, files."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.cli import main
from penstock.predictions.model import load
from penstock.predictions.training import boost
from support.churn import csv_bytes, customers
from support.process import environment
from support.training import STOPPED

Call = Callable[..., "Done"]
COMMAND = ("--label", "churned", "--id", "customer")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def process(folder: Path, *arguments: str, python: tuple[str, ...] = ("-m", "penstock")) -> Done:
    """The command as a process of its own."""
    done = subprocess.run(
        [sys.executable, *python, "train", *arguments],
        cwd=folder,
        env=environment(folder / "data"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def call(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command in this process, with few trees, which is much quicker."""
    monkeypatch.setattr(boost, "plan", lambda rows: boost.Plan(1, 50))

    def run(folder: Path, *arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["penstock", "train", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(0 if code is None else int(code), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with past.csv, its model and its card."""
    folder = tmp_path_factory.mktemp("trained")
    columns = customers(500)
    columns["left_on"] = ["2026-01-01" if text == "yes" else "" for text in columns["churned"]]
    folder.joinpath("past.csv").write_bytes(csv_bytes(columns))
    done = process(
        folder,
        "past.csv",
        *COMMAND,
        "--positive",
        "yes",
        "--out",
        "model.json",
        "--card",
        "card.html",
    )
    assert done.returncode == 0, done.stderr
    folder.joinpath("out").write_text(done.stdout)
    folder.joinpath("err").write_text(done.stderr)
    return folder


def test_a_model_and_its_card(trained: Path) -> None:
    model = load(trained.joinpath("model.json").read_bytes())

    assert model.id_column == "customer"
    assert model.training.rows == 500
    assert model.name == "model"
    assert "<svg" in trained.joinpath("card.html").read_text()
    assert {path.name for path in trained.iterdir()} >= {"model.json", "card.html"}
    assert not [path for path in trained.iterdir() if path.name.startswith(".")]


def test_one_summary_line_and_what_was_left_out(trained: Path) -> None:
    said, aside = trained.joinpath("out").read_text(), trained.joinpath("err").read_text()

    assert said.count("\n") == 1
    assert said.startswith("model.json: 500 customers, ")
    assert "AUC 0." in said
    assert "'left_on' is left out: whether it is filled in tells who churned" in aside
    assert "note: 500 rows are few" in aside
    assert "\x1b" not in said + aside


def test_one_document(trained: Path, call: Call) -> None:
    done = call(
        trained,
        "past.csv",
        *COMMAND,
        "--positive",
        "yes",
        "--out",
        "again.json",
        "--json",
        "--medium",
        "0.2",
        "--high",
        "0.5",
        "--name",
        "mine",
    )
    document = json.loads(done.stdout)

    assert done.returncode == 0
    assert document["name"] == "mine"
    assert document["risk"] == {"medium": 0.2, "high": 0.5}
    assert 0.5 < document["metrics"]["auc"] < 1
    assert [left["name"] for left in document["left_out"]] == ["left_on"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--positive VALUE"),
        (("--positive", "maybe"), "has no value 'maybe'"),
        (("--positive", "yes", "--type", "price=money"), "--type price=money"),
        (("--positive", "yes", "--decimal", "dot"), "--decimal"),
        (("--positive", "yes", "--as-of", "tomorrow"), "--as-of"),
        (("--positive", "yes", "--high", "1.2"), "--high"),
        (("--positive", "yes", "--drop", "Price"), "'price'"),
        (("--positive", "yes", "--keep", "left_on"), "--as-of 2026-01-31"),
        (("--positive", "yes", "--out", "past.csv"), "file to read"),
        (("--positive", "yes", "--out", "missing/model.json"), "there is no folder missing"),
        (("--positive", "yes", "--card", "."), "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    trained: Path, call: Call, arguments: tuple[str, ...], said: str
) -> None:
    before = trained.joinpath("past.csv").read_bytes()
    out = () if "--out" in arguments else ("--out", "refused.json")
    done = call(trained, "past.csv", *COMMAND, *out, *arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("penstock: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not trained.joinpath("refused.json").exists()
    assert trained.joinpath("past.csv").read_bytes() == before


def test_a_file_that_is_not_there(tmp_path: Path, call: Call) -> None:
    done = call(tmp_path, "none.csv", *COMMAND, "--out", "model.json")

    assert done.returncode == 2
    assert done.stderr == "penstock: none.csv does not exist.\n"


@pytest.mark.parametrize("case", STOPPED)
def test_what_the_file_does_not_say_is_asked(trained: Path, call: Call, case: str) -> None:
    stopped = STOPPED[case]
    trained.joinpath("asked.csv").write_bytes(stopped.content)
    positive = ("--positive", "yes") if stopped.given else ()
    done = call(trained, "asked.csv", *COMMAND, *positive, "--out", "none.json")

    assert done.returncode == 2
    assert re.search(stopped.says, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    if stopped.flags is not None:
        assert done.stderr.endswith(f" Answer with {stopped.flags}.\n"), done.stderr
    assert not trained.joinpath("none.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"customer,churned,tenure\n", "no rows"),
        (b"customer,churned,tenure\n1,yes,2\n2,no,3\n", "2 usable rows are too few"),
        (b"PK\x03\x04" + b"x" * 100, "zip"),
        (b'customer,churned,tenure\n1,yes,"2\n2,no,3\n', "never closed"),
        (b"customer,churned,churned,tenure\n" + b"1,yes,yes,2\n" * 300, "'churned'"),
        (b"customer,churned,tenure\n" + b"1,yes,\xe9\n" * 300, "not UTF-8"),
    ],
)
def test_files_that_cannot_be_learned_from(
    trained: Path, call: Call, content: bytes, said: str
) -> None:
    trained.joinpath("hostile.csv").write_bytes(content)
    done = call(trained, "hostile.csv", *COMMAND, "--positive", "yes", "--out", "none.json")

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not trained.joinpath("none.json").exists()


def test_a_compressed_file(trained: Path, call: Call) -> None:
    packed = trained / "past.csv.gz"
    packed.write_bytes(gzip.compress(trained.joinpath("past.csv").read_bytes()))
    done = call(trained, packed.name, *COMMAND, "--positive", "yes", "--out", "gz.json")

    assert done.returncode == 0, done.stderr
    model = load(trained.joinpath("gz.json").read_bytes())
    plain = load(trained.joinpath("model.json").read_bytes())
    assert [f.column for f in model.features] == [f.column for f in plain.features]
    assert model.training.sha256 == plain.training.sha256
    packed.write_bytes(packed.read_bytes()[:-200])
    assert call(trained, packed.name, *COMMAND, "--out", "cut.json").returncode == 2


def test_a_file_of_another_dialect(trained: Path, call: Call) -> None:
    columns = customers(400)
    columns["price"] = [text.replace(".", ",") for text in columns["price"]]
    text = csv_bytes(columns, ";").decode() + "Total;1;x;2,5;No;yes\nshort;row\n"
    trained.joinpath("past16.csv").write_bytes(text.encode("utf-16"))
    done = call(trained, "past16.csv", *COMMAND, "--positive", "yes", "--out", "other.json")

    assert done.returncode == 0, done.stderr
    model = load(trained.joinpath("other.json").read_bytes())
    price = next(f.column for f in model.features if f.column.name == "price")
    assert price.number.decimal == ","
    assert model.training.rows == 400
    assert "1 rows could not be read and were left out, the first is row 403" in done.stderr
    assert "1 rows of totals were left out" in done.stderr


def test_without_the_extras_it_says_what_to_install(trained: Path) -> None:
    for package, extra in (("numpy", "train"), ("pyarrow", "train"), ("lightgbm", "train")):
        code = f"import sys; sys.modules[{package!r}] = None\nfrom penstock.cli import main; main()"
        arguments = ("past.csv", *COMMAND, "--positive", "yes", "--out", "none.json")
        done = process(trained, *arguments, python=("-c", code))

        assert done.returncode == 1
        assert f"pip install 'penstock[{extra}]'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_rest_needs_no_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('numpy', 'pyarrow', 'lightgbm'): sys.modules[name] = None\n"
        "import penstock, penstock.cli, penstock.server, penstock.runtime, penstock.predictions"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_bar_on_a_terminal(trained: Path) -> None:
    arguments = ("past.csv", *COMMAND, "--positive", "yes", "--out", "bar.json")
    ours, theirs = pty.openpty()
    popen = subprocess.Popen(
        [sys.executable, "-m", "penstock", "train", *arguments],
        cwd=trained,
        env=environment(trained / "data") | {"TERM": "xterm", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    out, _ = popen.communicate(timeout=60)

    assert popen.returncode == 0
    assert b"Training" in seen
    assert out.startswith(b"bar.json: ")
