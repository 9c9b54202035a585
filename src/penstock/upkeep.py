"""Deleting by command: what is past its time, or all that an account has."""

from __future__ import annotations

import asyncio

from penstock.backends import make_database
from penstock.clock import SystemClock
from penstock.runtime import open_services, retention_rules
from penstock.schema import check_migrated
from penstock.settings import Settings
from penstock.storage import doomed, retention
from penstock.wiring import make_objects


async def prune(settings: Settings, *, dry_run: bool) -> dict[str, int]:
    """Delete what is past its time, or count it; answers how many, by rule."""
    await asyncio.to_thread(check_migrated, settings)
    async with open_services(settings) as (database, made, _):
        rules = retention_rules(made)
        if dry_run:
            return {rule.name: await database.read(rule.count) for rule in rules}
        pruned = {rule.name: await retention.apply(database, rule) for rule in rules}
        await doomed.sweep(database, make_objects(settings))
        return pruned


async def erase(settings: Settings, account: str, *, dry_run: bool) -> dict[str, int]:
    """Delete every row of an account, or count them; answers how many, by table."""
    await asyncio.to_thread(check_migrated, settings)
    database = make_database(settings, SystemClock(), owner=False)
    await database.open()
    try:
        if dry_run:
            return await database.read(lambda tx: retention.count(tx, account))
        erased = await retention.erase(database, account)
        await doomed.sweep(database, make_objects(settings))
        return erased
    finally:
        await database.close()
