"""Scored rows as bytes: result CSV, result Parquet, errors CSV.

A result has the id column under its own name and text, the probability with six decimals, the
level of risk that this number has, and up to three reasons, strongest first.

In CSV a text that a spreadsheet would run as a formula gets an apostrophe before it (as OWASP's
"CSV Injection" advises); plain numbers such as -5 are left alone. Parquet holds texts as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.predictions.check import FORMULAISH, first_bytes
from penstock.predictions.score import NO_REASON, REASONS, RISK_LEVELS, Scorer

PROBABILITY, RISK = "churn_probability", "risk_level"
REASON_COLUMNS: Final = tuple(f"reason_{i}" for i in range(1, REASONS + 1))
DECIMALS = 6
VALUE_LIMIT = 100  # characters of a bad cell that the errors file shows
ERROR_COLUMNS: Final = ("row", "line", "byte", "id", "column", "code", "value", "message")

# Blanks and invisible characters, spelled out: what RE2 and Python take for blank differs.
_UNSEEN = (
    "\t\n\x0b\x0c\r\x1c-\x20\x85\xa0\xad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff"
)
_FORMULA = f"[{_UNSEEN}]*[=+\\-@＝＋－＠]|[\t\r]"
_NUMBER = "[+-]?[0-9]+([.,][0-9]+)*"
_PYTHON_FORMULA = re.compile(_FORMULA)
_PYTHON_NUMBER = re.compile(_NUMBER)
_LINE = "\n"


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows with their scores: probabilities rounded as they are written, levels, reasons."""

    ids: Any
    probabilities: NDArray[np.float64]
    levels: NDArray[np.int8]
    reasons: NDArray[np.uint16]


def neutral(text: str) -> str:
    """The text, with an apostrophe before it if a spreadsheet could take it for a formula."""
    if _PYTHON_FORMULA.match(text) and not _PYTHON_NUMBER.fullmatch(text):
        return "'" + text
    return text


def quoted(text: str) -> str:
    """A CSV cell."""
    if any(mark in text for mark in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


class CsvWriter:
    """Writes results as CSV. Each chunk's bytes depend on that chunk alone."""

    def __init__(self, id_name: str, scorer: Scorer) -> None:
        names = (neutral(id_name), PROBABILITY, RISK, *REASON_COLUMNS)
        self.head = (",".join(quoted(name) for name in names) + _LINE).encode()
        texts = [quoted(neutral(text)) for text in scorer.texts]
        self._texts = pa.array([*texts, ""])
        self._last = pa.array([text + _LINE for text in (*texts, "")])
        self._levels = pa.array(RISK_LEVELS)

    def rows(self, scored: Scored) -> tuple[bytes, int]:
        """The rows, and how many ids were neutralized."""
        if not len(scored.ids):
            return b"", 0
        ids, neutralized = _csv_ids(scored.ids)
        reasons = np.minimum(scored.reasons, len(self._texts) - 1)
        cells = [
            ids,
            _decimals(scored.probabilities),
            self._levels.take(_indices(scored.levels)),
            *(self._texts.take(_indices(reasons[i])) for i in range(REASONS - 1)),
            self._last.take(_indices(reasons[REASONS - 1])),
        ]
        lines = pc.binary_join_element_wise(*cells, ",")
        # The last cell of a row ends its line, so that the array's data are the file's bytes.
        _, offsets, data = lines.buffers()
        length = int(np.frombuffer(offsets, dtype=np.int32)[len(lines)])
        return data.slice(0, length).to_pybytes(), neutralized


def _csv_ids(ids: Any) -> tuple[Any, int]:
    """Ids as CSV cells, and how many of them were neutralized."""
    neutralized = 0
    if (first_bytes(ids) & FORMULAISH).any():
        formula = pc.and_(
            pc.match_substring_regex(ids, f"^({_FORMULA})"),
            pc.invert(pc.match_substring_regex(ids, f"^({_NUMBER})$")),
        )
        neutralized = pc.sum(formula).as_py()
        if neutralized:
            ids = pc.if_else(formula, pc.binary_join_element_wise("'", ids, ""), ids)
    _, _, data = ids.buffers()
    text = memoryview(data).tobytes()
    if any(mark in text for mark in (b",", b'"', b"\n", b"\r", b" ", b"\t")):
        special = pc.match_substring_regex(ids, r'[,"\r\n\s]')
        doubled = pc.replace_substring(ids, '"', '""')
        cells = pc.binary_join_element_wise('"', doubled, '"', "")
        ids = pc.if_else(special, cells, ids)
    return ids, neutralized


def _decimals(probabilities: NDArray[np.float64]) -> Any:
    """Numbers from 0 to 1 as text with six decimals."""
    number = np.rint(probabilities * 10**DECIMALS).astype(np.int32)
    width = DECIMALS + 2
    text = np.empty((len(number), width), dtype=np.uint8)
    for place in range(width - 1, 1, -1):
        number, digit = np.divmod(number, 10)
        text[:, place] = digit + ord("0")
    text[:, 1] = ord(".")
    text[:, 0] = number + ord("0")
    offsets = np.arange(0, (len(text) + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(text))


def _indices(numbers: NDArray[Any]) -> Any:
    """Numbers as pyarrow's, without `pyarrow.array`, which would load numpy's masked arrays."""
    data = np.ascontiguousarray(numbers, dtype=np.int32)
    return pa.Int32Array.from_buffers(pa.int32(), len(data), [None, pa.py_buffer(data)])


class ParquetWriter:
    """Writes results as Parquet; `add` chunks in order, then `close`."""

    ROWS = 65_536  # of a row group

    def __init__(self, file: IO[bytes], id_name: str, scorer: Scorer) -> None:
        import pyarrow.parquet as parquet

        self._texts = pa.array(scorer.texts)
        self._levels = pa.array(RISK_LEVELS)
        word = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [
                (id_name, pa.string()),
                (PROBABILITY, pa.float64()),
                (RISK, word),
                *((name, word) for name in REASON_COLUMNS),
            ]
        )
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows = 0

    def add(self, scored: Scored) -> None:
        """Add the rows of a chunk. Where row groups begin does not depend on the chunks."""
        word = pa.DictionaryArray.from_arrays
        self._waiting.append(
            pa.record_batch(
                [
                    scored.ids,
                    pa.array(scored.probabilities),
                    word(_indices(scored.levels), self._levels),
                    *(
                        word(pa.array(row.astype(np.int32), mask=row == NO_REASON), self._texts)
                        for row in scored.reasons
                    ),
                ],
                schema=self._schema,
            )
        )
        self._rows += len(scored.ids)
        while self._rows >= self.ROWS:
            self._write(self.ROWS)

    def close(self) -> None:
        """Write what waits and the file's end."""
        if self._rows:
            self._write(self._rows)
        self._writer.close()

    def abandon(self) -> None:
        """Let go of the file, which is not complete."""
        with suppress(Exception):  # what matters is why it was abandoned
            self._writer.close()

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=self.ROWS)
        self._rows -= rows
        self._waiting = table.slice(rows).to_batches()


def error_lines(rows: Sequence[Sequence[object]]) -> bytes:
    """Lines of the errors file, cells in the order of `ERROR_COLUMNS`."""
    text = io.StringIO()
    csv.writer(text, lineterminator=_LINE).writerows(
        [neutral(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    # A lone surrogate cannot come out of checked UTF-8, so this cannot fail.
    return text.getvalue().encode()


def shown(value: str) -> str:
    """A bad cell for the errors file: cut, control characters escaped."""
    cut = value if len(value) <= VALUE_LIMIT else value[: VALUE_LIMIT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
