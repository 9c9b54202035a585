"""Carriers' credentials, and the lane that belongs to each.

A credential is the deployment's own, from its settings, or an account's, which is stored sealed
and never shown again. Budget and circuit belong to the credential, so each has a lane of its own;
an account's credential goes before the deployment's. A carrier that needs none (the sandbox) has
a lane for each account, so that one account's tests cannot open another's circuit.

A lane whose credential is gone is paused: its shipments wait, and nothing is asked or counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import Refused, SecretBoxError
from penstock.secretbox import SecretBox
from penstock.storage import Tx, sql
from penstock.tracking.budgets import DAY, pace
from penstock.tracking.carriers.base import Budget, Credential, Spec
from penstock.work import circuit, lanes

CHECK: Final = "shipment_check"  # the kind of work that asks carriers
SETTINGS: Final = "settings"  # the id of a deployment's own credential
TRIP_AFTER: Final = 3  # failed calls in a row that open the circuit
REFUSED: Final = "credential_refused"  # the error of a check whose credential is not accepted
CALLS_IN_FLIGHT: Final = 4  # of one credential at once
LONGEST_VALUE: Final = 4096  # characters of one value

# Held until the commit: whoever deletes it meanwhile waits, and then moves what was made with it.
_OWN_SQL = "SELECT version FROM carrier_credentials WHERE account = :account AND carrier = :carrier"
_OWN = sql(sqlite=_OWN_SQL, postgres=f"{_OWN_SQL} FOR KEY SHARE")
_PUT = sql("""
INSERT INTO carrier_credentials (account, carrier, sealed, version, created_at, updated_at)
VALUES (:account, :carrier, :sealed, {now}, {now}, {now})
ON CONFLICT (account, carrier) DO UPDATE SET sealed = excluded.sealed,
  version = {max}(carrier_credentials.version + 1, excluded.version), updated_at = {now}
""")
_REMOVE = sql("DELETE FROM carrier_credentials WHERE account = :account AND carrier = :carrier")
_SHOWN = sql("SELECT carrier, updated_at FROM carrier_credentials WHERE account = :account")
# In the order of their ids, as everything locks rows of work. Those that were given up as well: a
# refresh makes them go on in the lane they stand in.
_MOVE = sql("""
WITH k AS (SELECT id FROM shipments WHERE account = :account AND carrier = :carrier
           AND status IN ('pending', 'dead') AND lane <> :lane ORDER BY id {lock})
UPDATE shipments SET lane = :lane WHERE id IN (SELECT id FROM k)
""")
_AGAIN = sql("""
WITH k AS (SELECT id FROM shipments WHERE account = :account AND carrier = :carrier
           AND status = 'pending' AND due_at IS NOT NULL AND error_kind = :kind
           ORDER BY id {lock})
UPDATE shipments SET due_at = {now} WHERE id IN (SELECT id FROM k)
""")
_PROPERTIES: Final = ("max_in_flight", "rate", "burst", "trip_after", "per_call")
_LANES = sql(f"""
SELECT id, paused, {", ".join(_PROPERTIES)} FROM lanes
WHERE kind = :kind AND substr(id, 1, length(CAST(:prefix AS TEXT))) = :prefix
""")  # noqa: S608
_ADOPT = sql("""
WITH k AS (SELECT s.id FROM shipments s JOIN lanes l ON l.id = s.lane
           WHERE s.carrier = :carrier AND s.status IN ('pending', 'dead') AND s.lane <> :lane
             AND l.paused
           ORDER BY s.id)
UPDATE shipments SET lane = :lane WHERE id IN (SELECT id FROM k)
""")


def lane_of(carrier: str, account: str | None) -> str:
    """The lane of an account's credential with a carrier; None = of the deployment's own."""
    return f"trk:{carrier}:{SETTINGS}" if account is None else f"trk:{carrier}:a:{account}"


@dataclass(frozen=True, slots=True)
class Shown:
    """What may be said of an account's way to a carrier."""

    source: str | None  # "account", "settings", "none needed"; None = there is no credential
    updated_at: int | None  # of the account's own, µs


class Credentials:
    """Which credential an account's shipments use, and whether there is one.

    `own` are the deployment's, by carrier; `budgets` those that differ from the carriers' usual.
    """

    def __init__(
        self,
        box: SecretBox,
        specs: Mapping[str, Spec],
        own: Mapping[str, Mapping[str, str]],
        budgets: Mapping[str, Budget] | None = None,
    ) -> None:
        self.specs = specs
        self._box = box
        self._own = own
        self._budgets = budgets or {}

    def spec(self, carrier: str) -> Spec:
        """Refused unless there is such a carrier."""
        found = self.specs.get(carrier)
        if found is None:
            names = ", ".join(self.specs)
            raise Refused(
                "unknown_carrier", f"There is no carrier {carrier!r}; one of: {names}.", "/carrier"
            )
        return found

    def budget(self, carrier: str) -> Budget:
        """What one credential may call."""
        return self._budgets.get(carrier, self.specs[carrier].budget)

    def rows_per_day(self, carrier: str) -> float:
        """How many shipments one credential may ask for in a day, its calls being full."""
        return pace(self.budget(carrier)).rate * DAY * self.specs[carrier].per_call

    def has_own(self, carrier: str) -> bool:
        """Whether the deployment has a credential with the carrier."""
        return carrier in self._own

    # ------------------------------------------------------------------ lanes

    def lane(self, tx: Tx, account: str, carrier: str) -> str:
        """The lane for an account's shipments, made if need be.

        Refused if there is no such carrier, or no credential to ask it with.
        """
        spec = self.spec(carrier)
        if not spec.fields:
            return self._ensure(tx, carrier, account)
        if tx.one(_OWN, account=account, carrier=carrier) is not None:
            return self._ensure(tx, carrier, account)
        if carrier in self._own:
            return self._ensure(tx, carrier, None)
        raise Refused(
            "carrier_not_configured",
            f"There is no credential for {spec.title}.",
            "/carrier",
        )

    def _ensure(self, tx: Tx, carrier: str, account: str | None) -> str:
        lane = lane_of(carrier, account)
        properties = self._properties(self.specs[carrier])
        lanes.ensure(tx, lane, kind=CHECK, account=account or "", **properties)
        return lane

    def prepare(self, tx: Tx) -> None:
        """Bring lanes that exist in line with the settings, which may have changed since.

        Their budgets are the settings'. The deployment's own lanes are paused where it has no
        credential any more; where it has one now, it serves those who were left without.
        """
        for carrier, spec in self.specs.items():
            own = lane_of(carrier, None)
            for lane, paused, *properties in tx.rows(_LANES, prefix=f"trk:{carrier}:", kind=CHECK):
                wanted = self._properties(spec)
                if dict(zip(_PROPERTIES, properties, strict=True)) != wanted:
                    lanes.configure(tx, lane, **wanted)
                if lane == own and bool(paused) == self.has_own(carrier):
                    lanes.configure(tx, lane, paused=not self.has_own(carrier))
            if self.has_own(carrier):
                self._ensure(tx, carrier, None)
                if tx.run(_ADOPT, carrier=carrier, lane=own):
                    lanes.wake(tx, CHECK, own)

    def _properties(self, spec: Spec) -> dict[str, Any]:
        bucket = pace(self.budget(spec.name))
        return {
            "max_in_flight": CALLS_IN_FLIGHT * spec.per_call,
            "rate": bucket.rate,
            "burst": bucket.burst,
            "trip_after": TRIP_AFTER,
            "per_call": spec.per_call,
        }

    # ------------------------------------------------------------------ an account's own

    def put(self, tx: Tx, account: str, carrier: str, values: Mapping[str, str]) -> None:
        """Store the account's credential; its shipments use it from now on. Refused if unfit."""
        spec = self.spec(carrier)
        values = _checked(spec, values)
        sealed = self._box.seal(json.dumps(values, sort_keys=True))
        tx.run(_PUT, account=account, carrier=carrier, sealed=sealed)
        lane = self._ensure(tx, carrier, account)
        lanes.configure(tx, lane, paused=False)
        # What the one before was refused, or asked to wait for, says nothing of this one.
        circuit.try_now(tx, lane)
        tx.run(_AGAIN, account=account, carrier=carrier, kind=REFUSED)
        self._move(tx, account, carrier, lane)

    def remove(self, tx: Tx, account: str, carrier: str) -> bool:
        """Forget the account's credential; False = there was none.

        Its shipments go on with the deployment's, or wait until there is one.
        """
        self.spec(carrier)
        if not tx.run(_REMOVE, account=account, carrier=carrier):
            return False
        if carrier in self._own:
            self._move(tx, account, carrier, self._ensure(tx, carrier, None))
        else:
            lanes.configure(tx, lane_of(carrier, account), paused=True)
        return True

    def _move(self, tx: Tx, account: str, carrier: str, lane: str) -> None:
        tx.run(_MOVE, account=account, carrier=carrier, lane=lane)
        lanes.wake(tx, CHECK, lane)

    def shown(self, tx: Tx, account: str) -> dict[str, Shown]:
        """For every carrier, where the account's credential comes from; never what it is."""
        stored = dict(tx.rows(_SHOWN, account=account))
        shown = {}
        for carrier, spec in self.specs.items():
            source = (
                "none needed"
                if not spec.fields
                else "account"
                if carrier in stored
                else SETTINGS
                if carrier in self._own
                else None
            )
            shown[carrier] = Shown(source, stored.get(carrier))
        return shown

    def lane_shown(self, tx: Tx, account: str, carrier: str) -> str | None:
        """The lane the account's shipments use now; None = there is no credential."""
        source = self.shown(tx, account)[self.spec(carrier).name].source
        if source is None:
            return None
        return lane_of(carrier, None if source == SETTINGS else account)

    # ------------------------------------------------------------------ use

    def open(self, lane: str, account: str, carrier: str, sealed: str | None) -> Credential | None:
        """The credential of a lane, `sealed` as stored for the account; None = there is none.

        Raises SecretBoxError if the key that sealed it is not configured any more.
        """
        if lane == lane_of(carrier, None):
            own = self._own.get(carrier)
            return None if own is None else Credential(SETTINGS, own)
        if not self.specs[carrier].fields:
            return Credential(account, {})
        if sealed is None:
            return None
        values: Any = json.loads(self._box.open(sealed))
        if not isinstance(values, dict):
            raise SecretBoxError("what was sealed is not a carrier's credential")
        return Credential(account, values)


def _checked(spec: Spec, values: Mapping[str, str]) -> dict[str, str]:
    if not spec.fields:
        raise Refused("validation_failed", f"{spec.title} needs no credential.", "/carrier")
    known = {field.name: field for field in spec.fields}
    for name in values:
        if name not in known:
            expected = ", ".join(known)
            message = f"{spec.title} has no such value; expected: {expected}."
            raise Refused("validation_failed", message, f"/{name}")
    checked = {}
    for name, field in known.items():
        value = values.get(name, "").strip()
        if not value and field.required:
            raise Refused("validation_failed", f"{field.title} is missing.", f"/{name}")
        if not value.isascii() or not value.isprintable() or len(value) > LONGEST_VALUE:
            message = f"{field.title} must be printable ASCII, at most {LONGEST_VALUE} characters."
            raise Refused("validation_failed", message, f"/{name}")
        if value:
            checked[name] = value
    return checked
