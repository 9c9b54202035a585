from __future__ import annotations

import pytest
from sqlalchemy import bindparam, insert, select

from penstock.storage import sql
from penstock.storage.sql import POSTGRES_NOW, compile_core
from penstock.storage.tables import jobs, leaders


def postgres(text: str) -> str:
    return sql(text).postgres("clock()").decode()


def test_parameters_take_each_drivers_form() -> None:
    text = "SELECT * FROM jobs WHERE id = :id AND name=:name1"
    assert sql(text).sqlite == text
    assert postgres(text) == "SELECT * FROM jobs WHERE id = %(id)s AND name=%(name1)s"


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ':a {now}'",
        "SELECT 'it''s :a'",
        'SELECT ":a {x}" FROM t',
        "SELECT 1 -- :a {nonsense}\n",
        "SELECT 1 /* :a {nonsense}\n :b */",
        "SELECT 1::bigint",
    ],
)
def test_quoted_text_comments_and_casts_are_left_alone(text: str) -> None:
    assert sql(text).sqlite == text
    assert postgres(text) == text


def test_percent_is_escaped_for_psycopg_everywhere() -> None:
    assert postgres("SELECT 7 % 2, '50%' -- %") == "SELECT 7 %% 2, '50%%' -- %%"
    assert sql("SELECT 7 % 2").sqlite == "SELECT 7 % 2"


def test_the_clock() -> None:
    statement = sql("SELECT {now} + :delay")
    assert statement.sqlite == "SELECT :now + :delay"
    assert statement.uses_now
    assert statement.postgres("clock()") == b"SELECT clock() + %(delay)s"
    assert statement.postgres(POSTGRES_NOW).startswith(b"SELECT (extract(epoch FROM statement_")
    assert not sql("SELECT 1").uses_now


def test_the_text_is_compiled_once() -> None:
    statement = sql("SELECT {now}")
    assert statement.postgres("a()") is statement.postgres("a()")
    assert statement.postgres("b()") == b"SELECT b()"


def test_lists() -> None:
    statement = sql("DELETE FROM jobs WHERE id {in:ids} AND lane {in:lanes}")
    assert statement.lists == ("ids", "lanes")
    assert statement.sqlite == (
        "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))"
        " AND lane IN (SELECT value FROM json_each(:lanes))"
    )
    assert statement.postgres("") == (
        b"DELETE FROM jobs WHERE id = ANY(%(ids)s) AND lane = ANY(%(lanes)s)"
    )


def test_words_that_differ() -> None:
    text = "SELECT {min}(a, b), {max}(a, b) FROM t {lock}"
    assert sql(text).sqlite == "SELECT min(a, b), max(a, b) FROM t "
    assert postgres(text) == "SELECT least(a, b), greatest(a, b) FROM t FOR NO KEY UPDATE"
    assert postgres("SELECT 1 {lock_skip}") == "SELECT 1 FOR NO KEY UPDATE SKIP LOCKED"


def test_one_text_for_each() -> None:
    statement = sql(sqlite="SELECT {now}", postgres="SELECT :a")
    assert statement.sqlite == "SELECT :now"
    assert statement.postgres("") == b"SELECT %(a)s"


@pytest.mark.parametrize("text", ["SELECT {noww}", "SELECT {in:}", "SELECT {in:a b}", "SELECT {}"])
def test_an_unknown_word_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\{"):
        sql(text)


def test_now_may_not_be_given_twice() -> None:
    with pytest.raises(ValueError, match="now"):
        sql("SELECT {now} - :now")


def test_sql_takes_one_text_or_both() -> None:
    with pytest.raises(TypeError):
        sql(sqlite="SELECT 1")
    with pytest.raises(TypeError):
        sql("SELECT 1", sqlite="SELECT 1", postgres="SELECT 1")
    with pytest.raises(TypeError):
        sql()


@pytest.mark.parametrize(("dialect", "form"), [("sqlite", ":after"), ("postgres", "%(after)s")])
def test_core_statements(dialect: str, form: str) -> None:
    statement = select(jobs.c.id).where(
        jobs.c.status.in_(["a", "b"]), jobs.c.id > bindparam("after")
    )
    text, params = compile_core(statement, dialect, {"after": "x"})  # type: ignore[arg-type]
    assert form in text
    assert sorted(params.values()) == ["a", "b", "x"]


def test_core_insert_takes_its_columns_from_the_parameters() -> None:
    text, params = compile_core(insert(leaders), "sqlite", {"name": "n", "holder": "h"})
    assert text == "INSERT INTO leaders (name, holder) VALUES (:name, :holder)"
    assert params == {"name": "n", "holder": "h"}
