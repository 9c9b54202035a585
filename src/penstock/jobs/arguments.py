"""A function's arguments as JSON: validated by their annotations on the way in and out.

The schema is built once per function from its signature. What is stored is one JSON object
by parameter name, holding only what the caller gave: defaults are the function's own, at
the time it runs.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Required

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator, to_json
from pydantic_core.core_schema import CoreConfig
from typing_extensions import TypedDict

from penstock.errors import BadArguments, JobError
from penstock.work.outcomes import Dead, Done, Postpone, Retry

MAX_BYTES = 256 * 1024
_OUTCOMES = (Done, Retry, Postpone, Dead)
# Bytes as base64 and NaN as a string: both come back as what they were.
_JSON = CoreConfig(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")


class Arguments:
    """The parameters of one function: `dump` a call to JSON, `load` it back."""

    def __init__(self, function: Callable[..., Any], localns: Mapping[str, Any]) -> None:
        self._name = function.__name__
        self.signature = inspect.signature(function)
        self._bind = self.signature.bind
        hints = _hints(function, localns)
        fields = {
            name: _field(parameter, hints.get(name, Any))
            for name, parameter in self.signature.parameters.items()
        }
        adapter = _adapter(f"{self._name} arguments", fields, function)
        # Not the adapter's own: those know nothing of a TypedDict's settings for JSON, and
        # spend more on passing options on than the work itself takes.
        self._validator = SchemaValidator(adapter.core_schema, _JSON)
        self._to_json = SchemaSerializer(adapter.core_schema, _JSON).to_json
        self.result = _result_reader(hints.get("return", Any))

    @property
    def names(self) -> list[str]:
        """The parameters' names, in order."""
        return list(self.signature.parameters)

    @property
    def required(self) -> list[str]:
        """The parameters a call must give."""
        return [
            name
            for name, parameter in self.signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
        ]

    def dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The call as JSON. Raises `BadArguments`, in one line."""
        try:
            given = self._bind(*args, **kwargs).arguments
        except TypeError as exc:
            raise BadArguments(f"{self._name}{self.signature}: {exc}") from None
        try:
            encoded: bytes = self._to_json(self._validator.validate_python(given), warnings="none")
        except ValidationError as exc:
            raise BadArguments(f"{self._name}: {_one_line(exc)}") from None
        except PydanticSerializationError as exc:
            raise BadArguments(f"{self._name}: not storable as JSON: {exc}") from None
        if len(encoded) > MAX_BYTES:
            raise BadArguments(
                f"{self._name}: the arguments are {len(encoded)} bytes of JSON, more than"
                f" {MAX_BYTES}; store the data elsewhere and pass its key"
            )
        return encoded.decode()

    def load(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The stored call as positional and keyword arguments. Raises `BadArguments`."""
        try:
            values = self._validator.validate_json(text)
        except ValidationError as exc:
            raise BadArguments(f"{self._name}: {_one_line(exc)}") from None
        bound = inspect.BoundArguments(
            self.signature,
            # In the signature's order: positional arguments are taken from the front.
            {name: values[name] for name in self.signature.parameters if name in values},
        )
        return bound.args, bound.kwargs


def dump_result(value: object) -> str | None:
    """A job's result as JSON; None is stored as nothing. Raises ValueError if it cannot be."""
    if value is None:
        return None
    try:
        encoded = to_json(value, bytes_mode="base64", inf_nan_mode="strings")
    except PydanticSerializationError as exc:
        raise ValueError(str(exc)) from None
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"{len(encoded)} bytes of JSON, more than {MAX_BYTES}")
    return encoded.decode()


def frame_locals(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The local names where `function` is being decorated, for annotations that use them."""
    if "<locals>" not in function.__qualname__:
        return {}
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is getattr(function, "__globals__", None):
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _hints(function: Callable[..., Any], localns: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns=dict(localns), include_extras=True)
    except (NameError, TypeError) as exc:
        raise JobError(
            f"{function.__qualname__}: its annotations cannot be resolved ({exc}); define or"
            " import what they name, also at run time, before the job"
        ) from None


def _field(parameter: inspect.Parameter, annotation: Any) -> Any:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return NotRequired[list[annotation]]
    if parameter.kind is parameter.VAR_KEYWORD:
        return NotRequired[dict[str, annotation]]
    if parameter.default is parameter.empty:
        return Required[annotation]
    return NotRequired[annotation]


def _adapter(
    name: str, fields: dict[str, Any], function: Callable[..., Any]
) -> TypeAdapter[dict[str, Any]]:
    try:
        return TypeAdapter(_shape(name, fields))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError) as exc:
        raise JobError(
            f"{function.__qualname__}: a parameter's type cannot be stored as JSON:"
            f" {str(exc).splitlines()[0]}"
        ) from None


def _shape(name: str, fields: dict[str, Any]) -> Any:
    # A TypedDict, not a model: a parameter may be called `copy` or `json`, or begin with
    # an underscore, and one that was not given stays absent.
    make: Any = TypedDict
    shape = make(name, fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid", val_json_bytes="base64")
    return shape


def _result_reader(annotation: Any) -> SchemaValidator | None:
    """Reads a stored result back into the annotated type; None where that says nothing."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kept = tuple(a for a in typing.get_args(annotation) if a not in _OUTCOMES)
        annotation = typing.Union[kept] if kept else Any  # noqa: UP007 - built from a tuple
    if annotation in (Any, None, type(None), *_OUTCOMES):
        return None
    try:
        return SchemaValidator(TypeAdapter(annotation).core_schema, _JSON)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return None  # results are stored by value; a type pydantic does not know reads as JSON


def _one_line(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
        f" (got {_short(item['input'])})"
        for item in error.errors(include_url=False, include_context=False)
    )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
