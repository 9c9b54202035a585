"""Smaller parts of scoring a file: cells, duplicates, drift, unpacking."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.predictions import drift
from penstock.predictions.check import BLANKISH, first_bytes
from penstock.predictions.duplicates import Ids, hashes
from penstock.predictions.output import CsvWriter, Scored, neutral, shown
from penstock.predictions.refusal import Unusable
from penstock.predictions.score import NO_REASON, Scorer
from penstock.predictions.unpack import gunzip
from support.churn import small_model


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", " =1", "＝1", "\u200b=1"])
def test_formulas_are_neutralized(text: str) -> None:
    assert neutral(text) == "'" + text


@pytest.mark.parametrize("text", ["", "a=b", "-5", "+49.5", "-1,234.5", "é", "1=2", "'=1"])
def test_what_is_no_formula_is_left_alone(text: str) -> None:
    assert neutral(text) == text


TEXTS = st.lists(st.text(st.sampled_from("ab1=+-@\t\r\n,\"' é漢＝\u200b\u2003."), max_size=50))


@given(TEXTS)
def test_ids_are_written_as_each_would_be_alone(ids: list[str]) -> None:
    writer = CsvWriter("id", Scorer(small_model()))
    count = len(ids)
    scored = Scored(
        pa.array(ids, pa.string()),
        np.linspace(0, 1, count),
        np.zeros(count, dtype=np.int8),
        np.full((3, count), NO_REASON, dtype=np.uint16),
    )
    lines, neutralized = writer.rows(scored)
    rows = list(csv.reader(io.StringIO((writer.head + lines).decode(), newline="")))[1:]

    assert [row[0] for row in rows] == [neutral(text) for text in ids]
    assert neutralized == sum(neutral(text) != text for text in ids)
    assert [row[1] for row in rows] == [f"{p:.6f}" for p in np.round(scored.probabilities, 6)]


@given(TEXTS)
def test_blank_texts_are_always_suspected(texts: list[str]) -> None:
    flags = first_bytes(pa.array(texts, pa.string()))

    assert all(flag & BLANKISH for flag, text in zip(flags, texts, strict=True) if not text.strip())


def test_a_bad_cell_is_shown_cut_and_on_one_line() -> None:
    assert shown("a\nb\0\u202e") == "a\\nb\\x00\\u202e"
    assert shown("x" * 200) == "x" * 99 + "…"


@given(st.lists(st.text(max_size=40), max_size=30), st.integers(0, 10))
def test_a_hash_is_of_one_text_alone(texts: list[str], cut: int) -> None:
    array = pa.array(texts, pa.string())
    whole = hashes(array).tolist()

    assert whole == [hashes(pa.array([text]))[0] for text in texts]
    assert hashes(array.slice(cut)).tolist() == whole[cut:]
    assert len(set(whole)) == len(set(texts))


def test_hashes_of_many_similar_ids_differ() -> None:
    ids = [f"{i:08}" for i in range(200_000)] + ["a" * i for i in range(100)]
    assert len(np.unique(hashes(pa.array(ids)))) == len(ids)


@pytest.mark.parametrize("share", [1 << 19, 64])
def test_duplicates_are_found_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: int
) -> None:
    monkeypatch.setattr("penstock.predictions.duplicates._SHARE", share)
    with Ids(tmp_path) as ids:
        for begins in range(0, 1000, 100):
            names = [str(i % 990) for i in range(begins, begins + 100)]
            ids.add(hashes(pa.array(names)), np.arange(begins, begins + 100) + 2)
        found = ids.duplicates()
    assert found.rows == 10
    assert set(found.examples) <= {(i + 2, i + 992) for i in range(10)}
    assert len(found.examples) == 5
    assert not list(tmp_path.iterdir())


def test_drift_is_nothing_where_nothing_moved() -> None:
    model = small_model()
    same = np.array([count * 50 for feature in model.features for count in feature.counts])
    for each in drift.features(model, same):
        assert each.psi == pytest.approx(0, abs=0.001)
        assert each.level == "stable"


def test_drift_is_large_where_rows_moved() -> None:
    model = small_model()
    counts = [np.array(feature.counts) * 50 for feature in model.features]
    counts[0] = np.array([0, 8000, 1500, 500])
    tenure, *others = drift.features(model, np.concatenate(counts))

    # sum((p - q) ln(p / q)) with p = .8, .15, .05 and q = .2, .3, .5
    assert tenure.psi == pytest.approx(0.8318 + 0.1040 + 1.0362, abs=0.03)
    assert tenure.level == "large"
    assert [each.level for each in others] == ["stable"] * 3
    assert drift.score(model, np.array([100, 4000, 4000])).level == "large"


def test_a_few_rows_are_no_drift() -> None:
    model = small_model()
    assert drift.score(model, np.array([0, 0, 2])).level == "stable"
    assert drift.score(model, np.array([0, 0, 0])).level == "stable"


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4))
def test_gzip_members_are_unpacked_one_after_another(parts: list[bytes]) -> None:
    out = io.BytesIO()
    gunzip(io.BytesIO(b"".join(gzip.compress(part) for part in parts)), out)
    assert out.getvalue() == b"".join(parts)


def test_unpacking_ends_where_it_would_never() -> None:
    out = io.BytesIO()
    with pytest.raises(Unusable) as refused:
        gunzip(io.BytesIO(gzip.compress(bytes(50 << 20), 9)), out)
    assert refused.value.code == "too_large_unpacked"
    assert len(out.getvalue()) < 30 << 20
    for data in (b"", b"PK\x03\x04", gzip.compress(b"abc")[:-4]):
        with pytest.raises(Unusable, match=r"gzip"):
            gunzip(io.BytesIO(data), io.BytesIO())
    with pytest.raises(Unusable):
        gunzip(io.BytesIO(gzip.compress(b"x" * 1000)), io.BytesIO(), max_bytes=999)
