"""The model file: what is written is read, and nothing else is."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.predictions.card import html
from penstock.predictions.model import MAX_BYTES, dump, load
from penstock.predictions.parse import parse
from penstock.predictions.refusal import Unusable
from penstock.predictions.score import Scorer
from support.churn import small_model

Document = dict[str, Any]


def sealed(document: Document) -> bytes:
    """The document with the checksum that a forger would put."""
    content = {k: v for k, v in document.items() if k not in ("format", "version", "sha256")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**document, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def refused(data: bytes) -> str:
    with pytest.raises(Unusable) as caught:
        load(data)
    assert len(caught.value.message) < 300
    return caught.value.code


def test_what_is_written_is_read() -> None:
    model = small_model()
    data = dump(model)

    assert load(data) == model
    assert dump(load(data)) == data
    assert load(data, sha256=hashlib.sha256(data).hexdigest()) == model


def test_the_registered_file_and_no_other() -> None:
    other = dump(small_model(intercept=0.5))
    registered = hashlib.sha256(dump(small_model())).hexdigest()

    with pytest.raises(Unusable, match="registered"):
        load(other, sha256=registered)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": "penstock-model"}',
        b"\x80\x04\x95.",  # a pickle
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format":"penstock-model","format":"penstock-model"}',
        b'{"format":"penstock-model","version":1,"x":NaN}',
        b'{"format":"penstock-model","version":1,"x":1e999}',
        b'{"format":"penstock-model","version":1,"x":' + b"9" * 10_000 + b"}",
        b'"\\ud800"',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_model(data: bytes) -> None:
    assert refused(data) in ("model_damaged", "model_version")


def test_a_file_that_is_too_large_is_not_even_parsed() -> None:
    assert refused(b" " * (MAX_BYTES + 1)) == "model_damaged"


def test_a_later_version() -> None:
    document = json.loads(dump(small_model()))

    assert load(sealed(document)) == small_model()
    assert refused(sealed({**document, "version": 2})) == "model_version"


def test_a_changed_number_is_noticed() -> None:
    data = dump(small_model())

    assert refused(data.replace(b"-0.75", b"-0.7", 1)) == "model_damaged"


def _set(path: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = document
        for part in parents:
            place = place[part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("features", []),
        ("features.0.table", [0.0, 1.0]),
        ("features.0.table.1", "1.0"),
        ("features.0.table.1", None),
        ("features.0.table.1", 1e308),
        ("features.0.table.1", True),
        ("features.0.edges", [12.0, 2.0]),
        ("features.0.edges", [2.0, 2.0]),
        ("features.2.edges", [1.0]),
        ("features.0.counts.1", -1),
        ("features.0.counts.1", 1.5),
        ("features.0.column.kind", "code"),
        ("features.0.column.name", "price"),
        ("features.0.column.name", ""),
        ("features.0.column.name", "unknown"),
        ("features.0.column.name", "customer"),
        ("features.0.column.low", 100.0),
        ("features.0.column.categories", ["a"]),
        ("features.3.column.categories", ["Monthly", "MONTHLY"]),
        ("features.0.column.number.prefix", "-"),
        ("features.0.column.number.group", "."),
        ("features.0.column.number.decimal", "x"),
        ("features.0.column.extra", 1),
        ("extra", 1),
        ("intercept", 1e9),
        ("risk.high", 0.1),
        ("risk.high", 1.5),
        ("scores.edges", [0.4, 0.2]),
        ("scores.counts", [1]),
        ("training.rows", "7"),
        ("training.rows", 0),
        ("metrics", {}),
        ("warnings", [{"a": 1}]),
        ("as_of", 5),
        ("as_of", "yesterday"),
        ("demo", "no"),
        ("name", "\ud800"),
    ],
)
def test_a_forged_file_that_contradicts_itself(path: str, value: Any) -> None:
    document = json.loads(dump(small_model()))
    _set(path, value)(document)

    assert refused(sealed(document)) in ("model_invalid", "model_damaged")


def test_whatever_is_done_to_the_bytes() -> None:
    chance = random.Random(5)
    data = dump(small_model())
    for _ in range(600):
        bent = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 5))):
            at = chance.randrange(len(bent))
            match chance.randrange(4):
                case 0:
                    bent[at] = chance.randrange(256)
                case 1:
                    del bent[at : at + chance.randrange(1, 40)]
                case 2:
                    bent[at:at] = chance.choice((b"1", b"e9", b'"', b"[", b"}", b"\0", b"-"))
                case _:
                    other = chance.randrange(len(bent))
                    bent[at : at + 8] = bent[other : other + 20]
            if not bent:
                break
        try:
            found = load(bytes(bent))
        except Unusable:
            continue
        # Blanks between tokens are all that may differ.
        assert found == small_model()


def test_whatever_a_forger_puts_into_it() -> None:
    chance = random.Random(6)
    accepted = 0
    odd = (
        None,
        True,
        -1,
        0,
        3,
        1e300,
        -0.5,
        "",
        "x" * 300,
        "\0",
        [],
        {},
        [[]],
        math.pi,
        "1",
        [-1],
        "$",
        "\n",
    )
    places = list(_places(json.loads(dump(small_model()))))
    for _ in range(600):
        document = json.loads(dump(small_model()))
        for path in chance.sample(places, chance.choice((1, 1, 2))):
            place: Any = document
            try:
                for part in path[:-1]:
                    place = place[part]
                if chance.random() < 0.2:
                    del place[path[-1]]
                else:
                    place[path[-1]] = chance.choice(odd)
            except (KeyError, IndexError, TypeError):
                continue
        try:
            found = load(sealed(document))
        except Unusable:
            continue
        assert load(dump(found)) == found
        assert html(found)
        scorer = Scorer(found)
        cells = pa.array(["1", "$ 2.5", "Monthly", "yes", "2026-01-31", ""])
        day = datetime.date(2026, 1, 31)
        slots = scorer.slots([parse(each.column, cells, as_of=day) for each in found.features])
        assert np.isfinite(scorer.logit(slots)).all()
        assert scorer.strongest(slots).shape == (3, len(cells))
        accepted += 1
    assert accepted > 20  # names and logits may be anything that fits


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return
    for key, part in parts:
        yield (*path, key)
        yield from _places(part, (*path, key))
