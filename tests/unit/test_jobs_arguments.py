from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from penstock.errors import BadArguments, JobError
from penstock.jobs.arguments import MAX_BYTES, Arguments, dump_result, frame_locals
from penstock.work.outcomes import Retry


def arguments(function: Any) -> Arguments:
    return Arguments(function, frame_locals(function))


class Color(Enum):
    RED = "red"


class Item(BaseModel):
    sku: str
    price: Decimal


class Strange: ...


@dataclass
class Size:
    width: int
    height: int = 1


def everything(
    a: int,
    /,
    b: str = "b",
    *rest: float,
    when: datetime,
    color: Color = Color.RED,
    mode: Literal["x", "y"] = "x",
    **others: bool,
) -> None: ...


def test_only_what_was_given_is_stored_and_comes_back_where_it_was() -> None:
    args = arguments(everything)
    when = datetime(2026, 1, 2, tzinfo=UTC)

    text = args.dump((1, "two", 3.0, 4.5), {"when": when, "extra": True})

    assert text == (
        '{"a":1,"b":"two","rest":[3.0,4.5],"when":"2026-01-02T00:00:00Z","others":{"extra":true}}'
    )
    assert args.load(text) == ((1, "two", 3.0, 4.5), {"when": when, "extra": True})


def test_a_default_is_the_functions_own_at_run_time() -> None:
    args = arguments(everything)
    when = datetime(2026, 1, 2, tzinfo=UTC)

    positional, keywords = args.load(args.dump((1,), {"when": when}))

    assert (positional, keywords) == ((1,), {"when": when})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (bytes, b"\x00\xff"),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(seconds=1.5)),
        (float, math.inf),
        (Item, Item(sku="a", price=Decimal("1.10"))),
        (Size, Size(3)),
        (list[Size], [Size(3, 4)]),
        (set[int], {1, 2}),
        (tuple[int, str], (1, "a")),
        (str | None, None),
        (str, "\u0000\u2028\U0001f600"),
        (Any, {"a": [1, None, "x"]}),
    ],
)
def test_values_come_back_as_what_they_were(annotation: Any, value: object) -> None:
    def job(x: object) -> None: ...

    job.__annotations__["x"] = annotation
    args = arguments(job)

    assert args.load(args.dump((value,), {})) == ((value,), {})


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_any_json_object_survives(value: dict[str, Any]) -> None:
    args = arguments(_anything)

    assert args.load(args.dump((value,), {})) == ((value,), {})


def _anything(x: dict[str, Any]) -> None: ...


def test_values_are_converted_as_annotated() -> None:
    def job(n: int, size: Size) -> None: ...

    args = arguments(job)

    assert args.load(args.dump(("42",), {"size": {"width": 1}})) == ((42, Size(1)), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "job(n: int, name: str = 'x') -> None: missing a required argument: 'n'"),
        ((1, "a", 2), {}, "job(n: int, name: str = 'x') -> None: too many positional arguments"),
        (
            ("x",),
            {},
            "job: n: Input should be a valid integer, unable to parse string as an"
            " integer (got 'x')",
        ),
        (
            (1,),
            {"nmae": "a"},
            "job(n: int, name: str = 'x') -> None: got an unexpected keyword argument 'nmae'",
        ),
        ((1,), {"name": "\ud800"}, "job: not storable as JSON"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    def job(n: int, name: str = "x") -> None: ...

    with pytest.raises(BadArguments) as caught:
        arguments(job).dump(args, kwargs)
    assert message.replace("'int'", "int") in str(caught.value).replace("'int'", "int").replace(
        "'str'", "str"
    ).replace("'None'", "None")
    assert "\n" not in str(caught.value)


def test_what_is_not_json_is_refused_at_the_caller() -> None:
    def job(x) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(BadArguments, match="not storable as JSON"):
        arguments(job).dump((object(),), {})


def test_limits_of_an_annotation_hold() -> None:
    def job(n: Annotated[int, Field(gt=0)]) -> None: ...

    with pytest.raises(BadArguments, match="greater than 0"):
        arguments(job).dump((0,), {})


def test_large_arguments_are_refused() -> None:
    with pytest.raises(BadArguments, match="pass its key"):
        arguments(_anything).dump(({"x": "a" * MAX_BYTES},), {})


def test_stored_arguments_of_another_version_are_refused() -> None:
    def job(n: int) -> None: ...

    for text in ('{"m":1}', '{"n":"x"}', "{}", "[]", "not json"):
        with pytest.raises(BadArguments):
            arguments(job).load(text)


def test_parameters_may_be_called_as_pydantics_own_methods() -> None:
    def job(copy: int, json: str, model_config: int, _private: int, self: int) -> None: ...

    args = arguments(job)

    assert args.load(args.dump((1, "a", 2, 3, 4), {})) == ((1, "a", 2, 3, 4), {})


def test_an_unresolvable_annotation_is_refused_at_declaration() -> None:
    def job(n: int) -> None: ...

    job.__annotations__["n"] = "Nowhere"
    with pytest.raises(JobError, match="Nowhere"):
        arguments(job)


def test_a_type_without_a_schema_is_refused_at_declaration() -> None:
    def job(n: Strange) -> None: ...

    with pytest.raises(JobError, match="cannot be stored as JSON"):
        arguments(job)


def test_results_are_bounded_json() -> None:
    assert dump_result(None) is None
    assert dump_result({"a": Size(1), "b": b"\xff"}) == '{"a":{"width":1,"height":1},"b":"_w=="}'
    with pytest.raises(ValueError, match="more than"):
        dump_result("a" * MAX_BYTES)
    with pytest.raises(ValueError, match="serialize"):
        dump_result(object())


def test_outcomes_are_not_part_of_the_result_type() -> None:
    def job() -> Size | Retry:
        return Size(1)

    reader = arguments(job).result

    assert reader is not None
    assert reader.validate_json('{"width":1}') == Size(1)
