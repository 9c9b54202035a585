"""One text for both databases, compiled once for each.

`sql(text)` makes a `Statement`. The text is SQL with ``:name`` parameters and, where the
dialects differ, one of these:

==================  ==============================================  =========================
written             SQLite                                          PostgreSQL
==================  ==============================================  =========================
``{now}``           ``:now``, the unit's own instant                the server's clock, in µs
``lane {in:ids}``   ``IN (SELECT value FROM json_each(:ids))``      ``= ANY(%(ids)s)``
``{min}``/``{max}`` ``min``/``max`` (NULL if any argument is)       ``least``/``greatest``
``{lock}``          nothing: the writer is alone                    ``FOR NO KEY UPDATE``
``{lock_skip}``     nothing                                         the same, ``SKIP LOCKED``
==================  ==============================================  =========================

Quoted text, quoted names and comments are left as they are. Where one text will not do,
write two: ``sql(sqlite=…, postgres=…)``. A parameter that stands alone, as in
``:after IS NULL``, needs a type on PostgreSQL: ``CAST(:after AS TEXT) IS NULL``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, cast

if TYPE_CHECKING:
    # Processes that only read objects import this too, and SQLAlchemy takes a fifth of a second.
    from sqlalchemy import ClauseElement, Executable
    from sqlalchemy.engine.interfaces import Dialect as CoreDialect
    from sqlalchemy.sql.compiler import SQLCompiler

Dialect = Literal["sqlite", "postgres"]

# statement_timestamp(), not clock_timestamp(): only the former can bound an index scan.
POSTGRES_NOW: Final = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint"

_TOKEN: Final = re.compile(
    r"""
      (?P<verbatim> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: )
    | :(?P<parameter>[A-Za-z_]\w*)
    | \{(?P<directive>[^{}]*)\}
    | (?P<percent>%)
    """,
    re.VERBOSE | re.DOTALL,
)
_NOW: Final = "\0now\0"  # cannot occur in SQL; replaced once the clock's expression is known
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "now": (":now", _NOW),
    "min": ("min", "least"),
    "max": ("max", "greatest"),
    "lock": ("", "FOR NO KEY UPDATE"),
    "lock_skip": ("", "FOR NO KEY UPDATE SKIP LOCKED"),
}


class Statement:
    """A statement for both databases; make it once, at import, with `sql`."""

    __slots__ = ("_postgres", "_texts", "lists", "sqlite", "uses_now")

    def __init__(self, sqlite: str, postgres: str) -> None:
        names: set[str] = set()
        lists: set[str] = set()
        self.sqlite = _compile(sqlite, "sqlite", names, lists)
        self._postgres = _compile(postgres, "postgres", names, lists)
        self.uses_now = "now" in names
        self.lists = tuple(sorted(lists))
        self._texts: dict[str, bytes] = {}

    def postgres(self, now: str) -> bytes:
        """The text for psycopg; `now` is the expression that {now} stands for."""
        text = self._texts.get(now)
        if text is None:
            text = self._texts[now] = self._postgres.replace(_NOW, now).encode()
        return text

    def __repr__(self) -> str:
        return f"Statement({self.sqlite!r})"


def sql(
    text: str | None = None, /, *, sqlite: str | None = None, postgres: str | None = None
) -> Statement:
    """A `Statement` from one text for both databases, or from one for each."""
    if text is not None and sqlite is None and postgres is None:
        return Statement(text, text)
    if text is None and sqlite is not None and postgres is not None:
        return Statement(sqlite, postgres)
    raise TypeError("sql() takes one text, or both sqlite= and postgres=")


def _compile(text: str, dialect: Dialect, names: set[str], lists: set[str]) -> str:
    """`text` for one dialect; collects {now} in `names` and {in:…} parameters in `lists`."""
    postgres = dialect == "postgres"
    parameters: set[str] = set()

    def directive(word: str) -> str:
        if word.startswith("in:"):
            name = word[3:]
            if not name.isidentifier():
                raise ValueError(f"{{{word}}}: not a parameter name")
            lists.add(name)
            form = "= ANY(%({0})s)" if postgres else "IN (SELECT value FROM json_each(:{0}))"
            return form.format(name)
        if word not in _WORDS:
            raise ValueError(f"{{{word}}} is not one of {', '.join(_WORDS)}, in:name")
        names.add(word)
        return _WORDS[word][postgres]

    def token(match: re.Match[str]) -> str:
        if (word := match["directive"]) is not None:
            return directive(word)
        if (name := match["parameter"]) is not None:
            parameters.add(name)
            return f"%({name})s" if postgres else f":{name}"
        # psycopg reads % everywhere, even in quotes and comments.
        return match[0].replace("%", "%%") if postgres else match[0]

    compiled = _TOKEN.sub(token, text)
    if "now" in names and "now" in parameters:
        raise ValueError("{now} and :now in one statement: name the parameter otherwise")
    return compiled


@cache
def _core(dialect: Dialect) -> CoreDialect:
    from sqlalchemy.dialects import registry

    made: CoreDialect
    if dialect == "sqlite":
        made = registry.load("sqlite.pysqlite")(paramstyle="named")
    else:
        made = registry.load("postgresql.psycopg")()
    return made


def compile_core(
    statement: Executable, dialect: Dialect, params: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """A SQLAlchemy Core statement as text and parameters for the raw connection.

    Compiled anew at each call (a tenth of a millisecond or so): for queries with optional
    filters, not for hot paths. Values pass as the driver takes them; no type processing.
    """
    compiled = cast("ClauseElement", statement).compile(
        dialect=_core(dialect), column_keys=list(params) or None
    )
    state = cast("SQLCompiler", compiled).construct_expanded_state(dict(params))
    return state.statement, cast(dict[str, Any], dict(state.parameters))
