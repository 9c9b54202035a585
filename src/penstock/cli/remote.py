"""The server a command talks to: named by an option, a profile or a setting, or the local one.

A command that asks a server takes it as its first parameter; `with_server` puts the options in
its place that say which it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar

import typer

from penstock.cli import stored
from penstock.cli.output import fail
from penstock.cli.serve import DataOption
from penstock.client import Client, Unreachable
from penstock.settings import Settings, load_settings

P = ParamSpec("P")
T = TypeVar("T")
PAGE: Final = 100

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server to ask. [PENSTOCK_URL]")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="The API key to use; others on this machine can see options. [PENSTOCK_KEY]",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="The server that `penstock profiles add` stored. [PENSTOCK_PROFILE]",
    ),
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=0, metavar="N", help="The most to show; 0 shows all.")
]


@dataclass(frozen=True, slots=True)
class Target:
    """A server, whether it runs or not; without a `url` the one of the data folder."""

    settings: Settings
    url: str | None
    key: str | None = field(repr=False)
    clients: ExitStack = field(default_factory=ExitStack, repr=False)

    def server(self) -> Client:
        """To talk to it; Unreachable if it is the local one and does not run.

        Nothing is tried again: a person who waits for a prompt decides better.
        """
        made = Client(self.url, self.key, data_dir=self.settings.data_dir, retries=0)
        return self.clients.enter_context(made)

    def running(self) -> Client | None:
        """To talk to it; None if it is the local one and does not run."""
        try:
            return self.server()
        except Unreachable:
            return None


def chosen(data: Path | None, url: str | None, key: str | None, profile: str | None) -> Target:
    """What the options say, else the settings; SettingsError if neither can be right."""
    if url is not None and profile is not None:
        fail("--url and --profile both name a server: give one of them", code=2)
    settings = load_settings(data_dir=data, url=url, key=key, profile=profile)
    name = profile if url is None else None
    if name is None and url is None and data is None and settings.url is None:
        name = settings.profile
    if name is not None:
        found = stored.get(name)
        return Target(settings, found.url, key or found.key)
    # A key in the settings is for the server that they name; the local one has its own. Nor is
    # that asked whose data folder is named, whatever the environment says.
    if settings.url is None or (url is None and data is not None):
        return Target(settings, None, key)
    return Target(settings, settings.url, settings.key.get_secret_value() if settings.key else None)


def with_target(command: Callable[Concatenate[Target, P], None]) -> Callable[..., None]:
    """`command` with options in the place of its first parameter, which may not run."""
    return _with(command, lambda target: target)


def with_server(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """`command` with options in the place of its first parameter, the server to ask."""
    return _with(command, Target.server)


def _with(
    command: Callable[Concatenate[T, P], None], make: Callable[[Target], T]
) -> Callable[..., None]:
    @wraps(command)
    def asking(*args: Any, **given: Any) -> None:
        options = {name: given.pop(name) for name in ("data", "url", "key", "profile")}
        target = chosen(**options)
        with target.clients:
            command(make(target), *args, **given)

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    last = [each for each in own if each.name == "as_json"]
    parameters = [
        *(each for each in own if each.name != "as_json"),
        *(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
            for name, annotation in (
                ("data", DataOption),
                ("url", UrlOption),
                ("key", KeyOption),
                ("profile", ProfileOption),
            )
        ),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in last),
    ]
    # What typer reads; the parameters of the command itself are resolved already.
    vars(asking)["__signature__"] = inspect.Signature(parameters)
    asking.__annotations__ = {each.name: each.annotation for each in parameters}
    return asking


def listed(
    server: Client, path: str, limit: int, **query: str | int | None
) -> tuple[list[dict[str, Any]], bool]:
    """Up to `limit` items of a list, 0 = all; and whether there are more."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        size = PAGE if limit == 0 else min(PAGE, limit - len(items))
        page = server.call("GET", path, query={**query, "limit": size, "cursor": cursor})
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None or len(items) == limit:
            return items, cursor is not None
