"""Writes the parts of the reference that the code knows better than its authors.

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` a page of docs/reference holds what
the function NAME below answers. ``python docs/generate.py`` rewrites those parts, and
``--check`` fails when one of them is out of date.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from penstock import telemetry
from penstock.api.context import ANYONE, AUTHENTICATED
from penstock.api.problems import PROBLEMS
from penstock.api.routing import Route
from penstock.cli import app as commands
from penstock.runtime import open_runtime
from penstock.schema import migrate
from penstock.settings import load_settings, settings_table
from penstock.storage.tables import work_columns
from penstock.tracking.carriers import fedex, royal_mail, sandbox
from penstock.tracking.carriers import ups_codes as ups_codes_module
from penstock.tracking.carriers import usps_codes as usps_codes_module
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.status import RETURNED

REFERENCE = Path(__file__).parent / "reference"
_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MARK = "\N{NO-BREAK SPACE}"  # keeps an empty cell from collapsing


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    cells = ([re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows)
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(cell or _MARK for cell in line) + " |" for line in lines)


def settings() -> str:
    """Every setting."""
    return settings_table().strip()


def problems() -> str:
    """Every problem code."""
    return table(
        ("Code", "Status", "Title", "What to do"),
        (
            (f"`{code}`", str(kind.status), kind.title, kind.advice)
            for code, kind in sorted(PROBLEMS.items(), key=lambda item: (item[1].status, item[0]))
        ),
    )


def log_events() -> str:
    """Every log event."""
    return table(
        ("Event", "Level", "Meaning", "Fields"),
        (
            (
                f"`{event.name}`",
                event.level,
                event.description,
                ", ".join(f"`{name}`" for name in sorted(event.fields)),
            )
            for event in telemetry.log_events().values()
        ),
    )


def metrics() -> str:
    """Every metric."""
    return table(
        ("Metric", "Type", "Unit", "Labels", "In CloudWatch", "Meaning"),
        (
            (
                f"`{metric.name}`",
                metric.kind,
                metric.unit,
                ", ".join(f"`{name}`" for name in metric.labels),
                _in_cloudwatch(metric),
                metric.description,
            )
            for metric in telemetry.metrics_declared().values()
        ),
    )


def _in_cloudwatch(metric: telemetry.Metric) -> str:
    if metric.cloudwatch is None:
        return ""
    by = ", ".join(f"`{name}`" for name in metric.dimensions)
    return f"`{metric.cloudwatch}`" + f" by {by}" * bool(by)


def work_schema() -> str:
    """The columns that every work table has."""
    return table(
        ("Column", "Type", "NULL", "Default"),
        (
            (
                f"`{column.name}`",
                str(column.type),
                "yes" if column.nullable else "no",
                f"`{column.server_default.arg}`" if column.server_default is not None else "",  # type: ignore[attr-defined]
            )
            for column in work_columns()
        ),
    )


def cli() -> str:
    """Every command with its arguments and options."""
    return "\n\n".join(_commands(typer.main.get_command(commands), "penstock"))


def _commands(command: Any, name: str) -> Iterator[str]:
    for word, sub in sorted(getattr(command, "commands", {}).items()):
        if sub.hidden:
            continue
        full = f"{name} {word}"
        if hasattr(sub, "commands"):
            yield from _commands(sub, full)
        else:
            yield _command(sub, full)


def _command(command: Any, name: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(
        [name, *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)]
    )
    parts = [f"### {name}", f"`{usage}`", command.help.strip()]
    if command.params:
        parts.append(
            table(("Argument or option", "Meaning"), (_parameter(p) for p in command.params))
        )
    return "\n\n".join(parts)


def _parameter(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        shown = parameter.name.upper()
    else:
        shown = ", ".join(parameter.opts)
        if parameter.metavar:
            shown += f" {parameter.metavar}"
    meaning = parameter.help or ""
    if parameter.required:
        meaning += " Required."
    elif parameter.default not in (None, False, "", 0):
        meaning += f" Default: `{parameter.default}`."
    return f"`{shown}`", meaning.strip()


def routes() -> str:
    """Every route with the scope it needs."""
    return table(
        ("Method", "Path", "Scope", "What it does"),
        (
            (method, f"`{route.path_format}`", _scope(route.needs.scope), route.summary or "")
            for route in _application()[0]
            if route.include_in_schema
            for method in sorted(route.methods or ())
        ),
    )


def _scope(needed: str) -> str:
    named = {ANYONE: "none needed", AUTHENTICATED: "any key"}
    return named.get(needed, f"`{needed}`")


def event_fields() -> str:
    """The body of POST /v1/events."""
    return _fields("EventIn")


def endpoint_fields() -> str:
    """The body of POST /v1/endpoints."""
    return _fields("EndpointIn")


def shipment_fields() -> str:
    """The body of POST /v1/shipments."""
    return _fields("ShipmentIn")


def prediction_fields() -> str:
    """The body of POST /v1/predictions."""
    return _fields("PredictionIn")


def model_fields() -> str:
    """The body of POST /v1/models."""
    return _fields("ModelIn")


def _fields(model: str) -> str:
    schema = _application()[1]["components"]["schemas"][model]
    required = schema.get("required", [])
    return table(
        ("Field", "Type", "Limits", "Default"),
        (
            (
                f"`{name}`",
                _type(field),
                _limits(field),
                "required" if name in required else f"`{json.dumps(field.get('default'))}`",
            )
            for name, field in schema["properties"].items()
        ),
    )


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "const" in field:
        return f'`"{field["const"]}"`'
    if "enum" in field:
        return " or ".join(f'`"{one}"`' for one in field["enum"])
    if field["type"] == "array":
        return f"array of {_type(field['items'])}"
    if field.get("format") in ("date", "date-time"):
        return "date" if field["format"] == "date" else "time"
    return str(field["type"])


_MOST = ("maxLength", "maxItems", "maxProperties")
_LIMITS: dict[str, str] = {
    "maxLength": "{} characters",
    "maxItems": "{} items",
    "maxProperties": "{} members",
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "pattern": "`{}`",
}


def _limits(field: Mapping[str, Any]) -> str:
    parts = [field, *(one for one in field.get("anyOf", ()) if one.get("type") != "null")]
    if "items" in field:
        parts.append(field["items"])
    parts += [one["items"] for one in field.get("anyOf", ()) if "items" in one]
    lowest = {"maxLength": "minLength", "maxItems": "minItems"}
    found = [
        (f"{part[lowest[key]]} to " if lowest.get(key) in part else "at most " * (key in _MOST))
        + text.format(f"{part[key]:g}" if isinstance(part[key], float) else part[key])
        for part in parts
        for key, text in _LIMITS.items()
        if key in part
    ]
    return ", ".join(found).replace("|", "\\|")


def carriers() -> str:
    """Every carrier: what it takes, and what is asked of it at most."""
    return table(
        ("Carrier", "Name", "Numbers a call", "Calls at most", "Credential", "Base URL"),
        (
            (
                spec.title,
                f"`{spec.name}`",
                str(spec.per_call),
                f"{spec.budget.per_day:,} a day, {_rate(spec.budget.per_second)}",
                ", ".join(f"`{field.name}` ({field.title})" for field in spec.fields) or "none",
                f"`{spec.base_url}`",
            )
            for spec in CARRIERS.values()
            if spec.name != "sandbox"
        ),
    )


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:g} a second"
    return f"one in {1 / per_second:.3g} seconds"


def ups_codes() -> str:
    """What each status code of UPS means."""
    return _codes(ups_codes_module.CODES)


def fedex_codes() -> str:
    """What each status code of FedEx means."""
    return _codes(fedex.CODES)


def usps_codes() -> str:
    """What each event code of USPS means."""
    return _codes(usps_codes_module.EVENTS)


def royal_mail_codes() -> str:
    """What each event code of Royal Mail means."""
    return _codes(royal_mail.CODES)


def sandbox_scripts() -> str:
    """Every script of the sandbox: what happens in it, by the hour."""
    return table(
        ("Number", "What becomes of the parcel", "Statuses, and the hour in which each begins"),
        (
            (f"`SBX{name}`", script.about, _story(script) or "none")
            for name, script in sandbox.SCRIPTS.items()
        ),
    )


def _story(script: sandbox.Script) -> str:
    story: list[str] = []
    before = ""
    for step in script.steps:
        name = f"`{step.status}`" + f" (`{RETURNED}`)" * (step.sub_status == RETURNED)
        if name != before:
            story.append(f"{name} {step.at:g}")
        before = name
    return ", ".join(story)


def _codes(meanings: Mapping[str, tuple[str, str | None] | None]) -> str:
    by_meaning: dict[tuple[str, str | None] | None, list[str]] = {}
    for code, meaning in meanings.items():
        by_meaning.setdefault(meaning, []).append(f"`{code}`")
    return table(
        ("Status", "Sub-status", "Codes"),
        (
            (f"`{meaning[0]}`", f"`{meaning[1]}`" if meaning[1] else "", " ".join(codes))
            if meaning
            else ("(stays as it is)", "", " ".join(codes))
            for meaning, codes in by_meaning.items()
        ),
    )


_made: list[tuple[list[Route], dict[str, Any]]] = []


def _application() -> tuple[list[Route], dict[str, Any]]:
    """The routes of a server with every service, and its OpenAPI document."""
    if not _made:
        _made.append(asyncio.run(_make()))
    return _made[0]


async def _make() -> tuple[list[Route], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        chosen = load_settings(
            data_dir=folder, services="events,tracking,predictions", database_url=""
        )
        await asyncio.to_thread(migrate, chosen)
        async with open_runtime(chosen, isolate=False) as runtime:
            app = runtime.http()
            return [route for route in app.routes if isinstance(route, Route)], app.openapi()


PARTS: dict[str, Callable[[], str]] = {
    "carriers": carriers,
    "cli": cli,
    "endpoint-fields": endpoint_fields,
    "event-fields": event_fields,
    "fedex-codes": fedex_codes,
    "log-events": log_events,
    "metrics": metrics,
    "model-fields": model_fields,
    "prediction-fields": prediction_fields,
    "problems": problems,
    "routes": routes,
    "royal-mail-codes": royal_mail_codes,
    "sandbox-scripts": sandbox_scripts,
    "settings": settings,
    "shipment-fields": shipment_fields,
    "ups-codes": ups_codes,
    "usps-codes": usps_codes,
    "work-schema": work_schema,
}


def pages() -> dict[Path, tuple[str, str]]:
    """Each page with generated parts: as it is, and as it should be."""
    found = {}
    for path in sorted(REFERENCE.glob("*.md")):
        text = path.read_text()
        fresh = _PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}\n{m[3]}", text)
        if _PART.search(text):
            found[path] = (text, fresh)
    return found


def main() -> int:
    """Rewrite the pages, or with --check only say which are stale."""
    telemetry.configure_logging("error")
    stale = [path for path, (text, fresh) in pages().items() if text != fresh]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path} is out of date; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path][1])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
