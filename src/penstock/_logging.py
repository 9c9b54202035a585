"""Structured logs on standard error: the machinery behind `penstock.telemetry`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from penstock._levels import Format, Level

_NUMBERS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True, eq=False)
class LogEvent:
    """One kind of log line: what it is called, when it is written, what it carries."""

    name: str
    level: Level
    description: str
    fields: frozenset[str]


class _StandardError:
    """Writes lines to whatever `sys.stderr` is at that moment."""

    def msg(self, message: str) -> None:
        # A log that cannot be written must not stop the work it tells about.
        with suppress(OSError, ValueError):
            sys.stderr.write(message + "\n")

    debug = info = warning = error = critical = exception = log = msg


def _level_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    head = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**head, **event}


def _renderers(log_format: Format) -> list[Processor]:
    if log_format == "json":
        return [
            structlog.processors.format_exc_info,
            _level_first,
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            # Texts from outside (an endpoint's answer) must not steer the terminal.
            repr_native_str=True,
            # The default prints local variables, secrets among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


_BEFORE: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


@dataclass(slots=True)
class _State:
    logger: Any = None
    threshold: int = _NUMBERS["info"]


_state = _State()


class _Handler(logging.Handler):
    """Writes what libraries log to the same place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _StandardError().msg(self.format(record))
        except Exception:  # a record that cannot be formatted; the standard way to say so
            self.handleError(record)


_handler = _Handler()


def configure_logging(level: Level = "info", log_format: Format | None = None) -> None:
    """Choose what is logged, and how: JSON lines, or coloured text for people.

    Without a format it is `console` on a terminal and `json` elsewhere. What libraries log
    through the standard `logging` module (warnings and worse) is written the same way.
    """
    log_format = log_format or _default_format()
    _use(level, log_format)
    _handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                *_BEFORE,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    _handler.setLevel(max(_NUMBERS[level], logging.WARNING))
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)


def _default_format() -> Format:
    return "console" if sys.stderr.isatty() else "json"


def _use(level: Level, log_format: Format) -> None:
    _state.threshold = _NUMBERS[level]
    # Wrapped by hand: `structlog.configure` is global and belongs to the application that
    # Penstock may be part of.
    _state.logger = structlog.wrap_logger(
        _StandardError(),
        processors=[structlog.stdlib.add_log_level, *_BEFORE, *_renderers(log_format)],
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind()


def log(event: LogEvent, /, exc_info: BaseException | None = None, **fields: object) -> None:
    """Write one line for `event`, with a traceback if `exc_info` is given.

    `fields` must be among those the event declares.
    """
    assert fields.keys() <= event.fields, (
        f"{event.name} does not declare {sorted(fields.keys() - event.fields)}"
    )
    if _NUMBERS[event.level] < _state.threshold:
        return
    if _state.logger is None:
        _use("info", _default_format())
    if exc_info is not None:
        fields["exc_info"] = exc_info
    getattr(_state.logger, event.level)(event.name, **fields)


class bind:
    """Add `fields` to every line logged inside the ``with`` block, in this task or thread."""

    __slots__ = ("_fields", "_tokens")

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._tokens: Mapping[str, Token[Any]] = {}

    def __enter__(self) -> None:
        self._tokens = structlog.contextvars.bind_contextvars(**self._fields)

    def __exit__(self, *_exc: object) -> None:
        structlog.contextvars.reset_contextvars(**self._tokens)
