"""Which carriers there are."""

from __future__ import annotations

from typing import Final

from penstock.tracking.carriers import dhl, fedex, royal_mail, sandbox, ups, usps
from penstock.tracking.carriers.base import Spec

CARRIERS: Final[dict[str, Spec]] = {
    spec.name: spec
    for spec in (ups.SPEC, usps.SPEC, fedex.SPEC, dhl.SPEC, royal_mail.SPEC, sandbox.SPEC)
}
