"""`penstock predict`: what it writes, what it refuses and says, and how it ends."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from penstock.cli import main
from penstock.predictions.model import Model, dump
from support.churn import small_model
from support.command import cli
from support.hostile import ANOTHER, FINE, HEAD, REFUSED, ROW, SCORES, lines
from support.process import environment

RESULT = ["customer", "churn_probability", "risk_level", "reason_1", "reason_2", "reason_3"]


@dataclass
class Ran:
    code: int
    stdout: str
    stderr: str
    out: Path
    errors: Path
    report: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out.read_bytes().decode(), newline="")))

    @property
    def bad(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.errors.read_bytes().decode(), newline="")))


Predict = Callable[..., Ran]


@pytest.fixture
def predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predict:
    """Writes the bytes to a file and runs the command on it, in this process."""

    def run(
        data: bytes | str, *options: str, name: str = "customers.csv", model: Model | None = None
    ) -> Ran:
        (tmp_path / "model.json").write_bytes(dump(model or small_model()))
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        out, errors, report = (tmp_path / each for each in ("out.csv", "errors.csv", "report.html"))
        arguments = ["predict", str(tmp_path / name), "--model", str(tmp_path / "model.json")]
        arguments += ["--out", str(out), "--errors", str(errors), "--report", str(report)]
        for path in (out, errors, report):
            path.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["penstock", *arguments, *options])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        said = capsys.readouterr()
        before = {"model.json", name}
        left = {path.name for path in tmp_path.iterdir()} - before
        if code in (0, 3):
            assert left == {"out.csv", "errors.csv", "report.html"}
        else:  # nothing is left behind, not even in part
            assert left == set()
        return Ran(code, said.out, said.err, out, errors, report)

    return run


def test_all_rows_scored(predict: Predict) -> None:
    ran = predict(lines(ROW, ANOTHER))

    assert ran.code == 0
    assert ran.stdout.count("\n") == 1
    assert "2 customers scored" in ran.stdout
    assert ran.stderr == ""
    assert list(ran.rows[0]) == RESULT
    assert [row["customer"] for row in ran.rows] == ["00123", "A7"]
    assert ran.rows[0]["risk_level"] == "medium"
    assert ran.rows[0]["reason_1"] == "tenure up to 2 (raises risk)"
    assert ran.rows[1]["reason_1"] == "tenure from 13 (lowers risk)"
    assert ran.bad == []


def test_some_rows_set_aside(predict: Predict) -> None:
    ran = predict(lines(ROW, "b,abc,20,yes,Monthly", ANOTHER))

    assert ran.code == 3
    assert "2 customers scored, 1 set aside (row 3, column 'tenure', value 'abc'" in ran.stdout
    assert len(ran.rows) == 2
    (bad,) = ran.bad
    assert list(bad) == ["row", "line", "byte", "id", "column", "code", "value", "message"]
    assert (bad["row"], bad["byte"], bad["id"], bad["code"]) == ("3", "58", "b", "not_number")


def test_one_document_if_asked(predict: Predict) -> None:
    ran = predict(lines(ROW, "b,abc,20,yes,Monthly"), "--json")

    document = json.loads(ran.stdout)
    assert ran.code == 3
    assert (document["rows"], document["set_aside"]) == (1, 1)
    assert document["risk"] == {"high": 0, "medium": 1, "low": 0}
    assert document["errors"] == [{"column": "tenure", "code": "not_number", "count": 1}]
    assert [column["name"] for column in document["columns"]] == [
        "tenure", "price", "support", "plan"
    ]  # fmt: skip
    assert document["columns"][0]["out_of_range"] == 0


def test_one_bad_row_can_refuse_the_file(predict: Predict) -> None:
    ran = predict(lines(ROW, "b,abc,20,yes,Monthly"), "--on-bad-row", "reject")

    assert ran.code == 2
    assert "Row 3, column 'tenure', value 'abc'" in ran.stderr
    assert predict(lines(ROW), "--on-bad-row", "reject").code == 0


# -------------------------------------------------------------------- files that cannot be used


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_what_to_do(predict: Predict, case: str) -> None:
    refused = REFUSED[case]
    ran = predict(refused.data)

    assert ran.code == 2, ran.stdout
    assert ran.stdout == ""
    assert re.search(refused.says, ran.stderr), ran.stderr
    if refused.option is not None:
        assert f"(--{refused.option.replace('_', '-')})" in ran.stderr
    assert ran.stderr.startswith("penstock: ")
    assert ran.stderr.count("\n") == 1
    assert len(ran.stderr) < 1000
    assert "Traceback" not in ran.stderr


def test_a_column_that_must_be_filled_and_is_not(predict: Predict) -> None:
    model = small_model()
    first, *rest = model.features
    first = replace(first, column=replace(first.column, required=True))
    model = replace(model, features=(first, *rest))
    ran = predict(lines("a,,20,yes,Monthly", "b,,20,yes,Monthly", ROW), model=model)

    assert ran.code == 2
    assert "'tenure' is empty in 2 of 3 rows" in ran.stderr


def test_the_number_of_rows_can_be_limited(predict: Predict) -> None:
    assert predict(lines(ROW, ANOTHER), "--max-rows", "2").code == 0
    ran = predict(lines(ROW, ANOTHER, "c"), "--max-rows", "2")
    assert (ran.code, "more than 2 rows" in ran.stderr) == (2, True)


# ------------------------------------------------------------------- files that are odd, and fine


@pytest.mark.parametrize("case", FINE)
def test_what_is_odd_and_clear_is_read(predict: Predict, case: str) -> None:
    fine = FINE[case]
    ran = predict(fine.data, *fine.options)

    assert ran.code == 0, ran.stderr
    assert tuple(row["churn_probability"] for row in ran.rows) == SCORES
    assert [row[next(iter(row))] for row in ran.rows] == ["00123", "A7"]
    if fine.notice is not None:
        assert f"note: {fine.notice}" in ran.stderr or fine.notice in ran.stderr
        assert ran.report.read_text().count("<li>") >= 1


def test_notes_about_the_rows(predict: Predict) -> None:
    rows = [f"id{i},90,{'inf' if i % 2 else 20},,Weekly" for i in range(50)]
    ran = predict(lines(*rows, "id7,1,20,,Monthly", '"=1+1",1,20,,Monthly'))

    assert ran.code == 0
    for says in (
        r"'tenure' is outside of what training saw \(0 to 60\) in 50 rows",
        r"'plan' has a value that the model does not know in 50 rows \(96%\)\. Do not trust",
        "'price' is infinite in 25 rows",
        "'support' is empty in every row",
        "'tenure' is far from the training rows",
        "1 rows have an id that an earlier row has too, such as rows 9 and 52",
        "1 ids begin like a formula",
    ):
        assert re.search(says, ran.stderr), (says, ran.stderr)
    assert ran.rows[-1]["customer"] == "'=1+1"


def test_a_missing_column_by_leave(predict: Predict) -> None:
    data = "customer,tenure,support,plan\n00123,1,yes,Monthly\n"
    assert predict(data).code == 2
    ran = predict(data, "--allow-missing", "price")

    assert ran.code == 0
    assert "'price' is not in the file" in ran.stderr
    assert len(ran.rows) == 1


def test_the_id_column_keeps_its_own_name(predict: Predict) -> None:
    ran = predict(lines(ROW, head=HEAD.replace("customer", "Kunde Nr")), "--id", "Kunde Nr")

    assert ran.code == 0
    assert next(iter(ran.rows[0])) == "Kunde Nr"


def test_gzip_by_its_name(predict: Predict) -> None:
    data = gzip.compress(lines(ROW).encode()) + gzip.compress(ANOTHER.encode())
    ran = predict(data, name="customers.csv.gz")
    assert (ran.code, len(ran.rows)) == (0, 2)

    assert "is not, or is damaged" in predict(lines(ROW), name="customers.csv.gz").stderr
    assert "cut short" in predict(data[:-9], name="customers.csv.gz").stderr
    bomb = predict(gzip.compress(bytes(200 << 20), 9), name="customers.csv.gz")
    assert (bomb.code, "unpacks to more" in bomb.stderr) == (2, True)


# ------------------------------------------------------------------------------ places in a file


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_rows_lines_and_bytes_of_errors(predict: Predict, newline: str, encoding: str) -> None:
    parts = [HEAD, "é1,1,20,yes,Monthly", '"a', 'b",1,20,yes,Monthly', "", "ü2,x,20,yes,Monthly",
             "short", "d,1,20,no,Monthly"]  # fmt: skip
    text = newline.join(parts) + newline
    # Without a mark, so that the mark's own bytes count once.
    plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(encoding, encoding)
    ran = predict(text.encode(encoding))
    mark = len("".encode(encoding))

    def byte(of: str) -> str:
        return str(mark + len(text[: text.index(of)].encode(plain)))

    assert ran.code == 3
    assert [(e["row"], e["line"], e["byte"], e["id"], e["code"]) for e in ran.bad] == [
        ("5", "6", byte("ü2"), "ü2", "not_number"),
        ("6", "7", byte("short"), "", "field_count"),
    ]
    assert [row["customer"] for row in ran.rows] == ["é1", f"a{newline}b", "d"]


# ----------------------------------------------------------------------------- models and outputs


def test_a_model_that_was_tampered_with_is_refused(predict: Predict, tmp_path: Path) -> None:
    good = dump(small_model())
    for broken in (good.replace(b"0.25", b"0.35"), good[:-20], b"{}", b"\x80\x04.", b"[" * 5000):
        file = tmp_path / "broken.json"
        file.write_bytes(broken)
        done = cli(*typed(tmp_path), "--model", str(file))
        assert (done.code, done.stdout) == (2, "")
        assert "model" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.csv").exists()


def typed(folder: Path, file: str = "some.csv") -> list[str]:
    """Those of the command, with a file of its own unless there is one."""
    source = folder / file
    if not source.exists():
        source.write_text(lines(ROW, ANOTHER))
    (folder / "model.json").write_bytes(dump(small_model()))
    options = ["--model", str(folder / "model.json"), "--out", str(folder / "out.csv")]
    return ["predict", str(source), *options]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--out", "FOLDER/some.csv"), "the input already"),
        (("--errors", "FOLDER/out.csv"), "another output already"),
        (("--report", "FOLDER/none/report.html"), "not a folder"),
        (("--out", "FOLDER"), "is a folder"),
        (("--model", "FOLDER/none.json"), "cannot be read"),
        (("--encoding", "klingon"), "'klingon' is not known"),
        (("--delimiter", "ab"), "not one character"),
        (("--header-row", "0"), "rows 1 to 20"),
        (("--map", "tenure"), "--map tenure"),
        (("--map", "age=tenure"), "no column 'age'"),
        (("--map", "tenure=#9"), "no column #9"),
        (("--map", "tenure=price"), "mapped to"),
        (("--id", "nobody"), "no column 'nobody'"),
        (("--as-of", "yesterday"), "a date such as"),
        (("--on-bad-row", "repair"), "quarantine or reject"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    (tmp_path / "some.csv").write_text(lines(ROW))
    (tmp_path / "model.json").write_bytes(dump(small_model()))
    arguments = ["predict", str(tmp_path / "some.csv"), "--model", str(tmp_path / "model.json")]
    arguments += ["--out", str(tmp_path / "out.csv")]
    given = [each.replace("FOLDER", str(tmp_path)) for each in options]
    monkeypatch.setattr(sys, "argv", ["penstock", *arguments, *given])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert (tmp_path / "some.csv").read_text() == lines(ROW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "some.csv"]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    done = cli(*typed(tmp_path), "--out", str(tmp_path / "no" / "out.csv"))
    assert (done.code, "not a folder" in done.stderr) == (2, True)
    (tmp_path / "folder").mkdir()
    done = cli(*typed(tmp_path, "folder"))
    assert (done.code, "is not a file" in done.stderr) == (2, True)


def test_a_hostile_name_is_only_shown(predict: Predict, tmp_path: Path) -> None:
    ran = predict(lines(ROW), name="<script>alert(1)\n.csv")

    assert ran.code == 0
    assert "<script" not in ran.report.read_text()
    assert "&lt;script&gt;" in ran.report.read_text()


def test_hostile_cells_stay_text_in_the_report(predict: Predict) -> None:
    evil = '<img src=x onerror="alert(1)">'
    head = HEAD.replace("customer", '"' + evil.replace('"', '""') + '"')
    ran = predict(lines(ROW, "b,<b>,20,yes,Monthly", head=head), "--id", "#1")

    page = ran.report.read_text()
    assert ran.code == 3
    assert "<img" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert page.count("<svg") == 3


def test_results_as_parquet(predict: Predict, tmp_path: Path) -> None:
    rows = [f"{i:06},{i % 60},20,yes,Monthly" for i in range(70_000)]
    result = tmp_path / "out.parquet"
    ran = predict(lines("=1+1,1,20,yes,Monthly", *rows))
    plain = ran.rows
    for path in tmp_path.iterdir():
        path.unlink()
    done = command_with(tmp_path, lines("=1+1,1,20,yes,Monthly", *rows), result)

    assert done.returncode == 0, done.stderr
    table = parquet.read_table(result)
    assert table.column_names == RESULT
    assert table["customer"].to_pylist()[:2] == ["=1+1", "000000"]
    assert [f"{p:.6f}" for p in table["churn_probability"].to_pylist()] == [
        row["churn_probability"] for row in plain
    ]
    assert table["reason_3"].to_pylist() == [row["reason_3"] or None for row in plain]
    first = result.read_bytes()
    command_with(tmp_path, lines("=1+1,1,20,yes,Monthly", *rows), result)
    assert result.read_bytes() == first


def command_with(folder: Path, data: str, result: Path) -> subprocess.CompletedProcess[str]:
    (folder / "some.csv").write_text(data)
    """In a process of its own, which starts two more."""
    options = ["--out", str(result), "--processes", "2"]
    return subprocess.run(
        [sys.executable, "-m", "penstock", *typed(folder), *options],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_file_that_was_there_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    out.chmod(0o640)
    (tmp_path / "some.csv").write_text(lines(ROW, 'b,1,20,yes,"open'))
    assert cli(*typed(tmp_path)).code == 2
    assert out.read_text() == "old"

    (tmp_path / "some.csv").write_text(lines(ROW))
    assert cli(*typed(tmp_path)).code == 0
    assert out.read_text().startswith("customer,")
    assert out.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "out.csv", "some.csv"]


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},1,20,yes,Monthly" for i in range(400_000))
    (tmp_path / "some.csv").write_text(f"{HEAD}\n" + f"{rows}\n" * 8)
    (tmp_path / "model.json").write_bytes(dump(small_model()))
    arguments = ["predict", "some.csv", "--model", "model.json", "--out", "out.csv"]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 1 << 20 for path in tmp_path.glob(".out.*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(2)
        assert process.wait(60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "some.csv"]


def test_it_needs_no_module_of_the_server(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom penstock.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(n for n in ('sqlalchemy', 'fastapi', 'aiohttp', 'lightgbm', 'rich') "
        "if n in sys.modules))"
    )
    (tmp_path / "some.csv").write_text(lines(ROW))
    (tmp_path / "model.json").write_bytes(dump(small_model()))
    arguments = ["predict", "some.csv", "--model", "model.json", "--out", "out.csv"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    (tmp_path / "some.csv").write_text(lines(ROW))
    (tmp_path / "model.json").write_bytes(dump(small_model()))
    arguments: list[Any] = ["predict", "some.csv", "--model", "model.json", "--out", "out.csv"]
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], cwd=tmp_path,
        env=environment(tmp_path) | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.PIPE, stderr=child, text=True, check=True,
    )  # fmt: skip
    os.close(child)
    shown = ""
    with suppress(OSError):  # the other end is closed, and all that came has been read
        while part := os.read(parent, 100_000):
            shown += part.decode(errors="replace")
    os.close(parent)
    assert "Scoring" in shown
    assert done.stdout.count("\n") == 1


def test_a_full_disk_leaves_nothing(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("penstock.predictions.files.os.fsync", full)
    ran = predict(lines(ROW))

    assert ran.code == 1
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr
