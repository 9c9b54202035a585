"""How functions that describe calls become methods: one that blocks, one to be awaited.

A resource is one module: functions that return a `Call` or a `Listing`, and two classes that
list them, each by what is done with it::

    class Keys(Resource):
        create = blocking(create)
        list = pages(every)

    class AsyncKeys(AsyncResource):
        create = awaited(create)
        list = async_pages(every)
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from penstock.client.calls import Call, Listing

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Carries a call out."""

    def run(self, call: Call[T]) -> T:
        """Its answer, or ApiError or Unreachable."""
        ...


class AsyncRunner(Protocol):
    """Carries a call out."""

    async def run(self, call: Call[T]) -> T:
        """Its answer, or ApiError or Unreachable."""
        ...


class Resource:
    """Calls that belong together."""

    __slots__ = ("_runner",)

    def __init__(self, runner: Runner) -> None:
        self._runner = runner


class AsyncResource:
    """Calls that belong together."""

    __slots__ = ("_runner",)

    def __init__(self, runner: AsyncRunner) -> None:
        self._runner = runner


def blocking(describe: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that returns when it is done."""

    def method(self: Resource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._runner.run(describe(*args, **kwargs))

    return _like(describe, method)


def awaited(
    describe: Callable[P, Call[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A method to be awaited."""

    async def method(self: AsyncResource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._runner.run(describe(*args, **kwargs))

    return _like(describe, method)


def pages(describe: Callable[P, Listing[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """A method that iterates over a list, reading each page when it is reached."""

    def method(self: Resource, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        listing, cursor = describe(*args, **kwargs), None
        while True:
            items, cursor = self._runner.run(listing.page(cursor))
            yield from items
            if cursor is None:
                return

    return _like(describe, method)


def async_pages(
    describe: Callable[P, Listing[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """A method that iterates over a list, reading each page when it is reached."""

    async def method(self: AsyncResource, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        listing, cursor = describe(*args, **kwargs), None
        while True:
            items, cursor = await self._runner.run(listing.page(cursor))
            for item in items:
                yield item
            if cursor is None:
                return

    return _like(describe, method)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _like(describe: Callable[..., Any], method: _Method) -> _Method:
    """`method` with the name, the description and the parameters of `describe`."""
    update_wrapper(method, describe)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *inspect.signature(describe).parameters.values()]
    vars(method)["__signature__"] = inspect.Signature(parameters)
    return method
