"""Tracking numbers: their spelling, their check digits, and whose they may be.

A check digit is advice, not a gate: carriers do accept numbers that fail it, and a number of
digits alone passes some other carrier's check one time in ten. So `detect` names every carrier
whose formats fit, the likeliest first, and decides nothing.

Sources: UPS 1Z and waybills, FedEx Express, Ground and the two barcodes of 34 digits, DHL Express:
the carriers' label guides as collected in github.com/jkeen/tracking_number_data; USPS: Publication
199, appendix B (the check digit is GS1's); S10: UPU technical standard S10-12; DHL Paket: an SSCC
(GS1 General Specifications, 7.9) with Deutsche Post's company prefix.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from penstock.errors import PenstockError

Checksum = Literal["valid", "invalid", "none"]

SHORTEST: Final = 5
LONGEST: Final = 40  # characters


class NumberRefused(PenstockError):
    """The text cannot be a tracking number."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A carrier that the number may belong to.

    `number` is as that carrier writes it. `checksum` is "none" where the format has no check.
    """

    carrier: str
    format: str
    number: str
    checksum: Checksum


def normalise(carrier: str | None, text: str) -> str:
    """The number as the carrier writes it: capitals and digits, without spaces and dashes.

    For USPS the routing code that its barcodes begin with (420 and the ZIP code) goes, too: it
    is the address, not the parcel. NumberRefused says what is wrong.
    """
    if len(text) > 4 * LONGEST:  # before anything is done to it
        raise NumberRefused(f"a tracking number has at most {LONGEST} letters and digits")
    number = "".join(
        character
        for character in unicodedata.normalize("NFKC", text).upper()
        if not character.isspace() and unicodedata.category(character) not in ("Pd", "Cf")
    )
    if not number:
        raise NumberRefused("the tracking number is empty")
    if not (number.isascii() and number.isalnum()):
        raise NumberRefused("a tracking number has only letters A-Z and digits, spaces and dashes")
    if not SHORTEST <= len(number) <= LONGEST:
        raise NumberRefused(
            f"a tracking number has {SHORTEST} to {LONGEST} letters and digits, not {len(number)}"
        )
    return _unrouted(number) if carrier == "usps" else number


def check(carrier: str, number: str) -> bool | None:
    """Whether the check digit is right; None where the number has none, or an unknown form."""
    number = normalise(carrier, number)
    verdicts = {form.verdict(number) for form in _FORMS if form.fits(carrier, number)}
    if "valid" in verdicts:
        return True
    return False if "invalid" in verdicts else None


def detect(text: str) -> list[Candidate]:
    """The carriers that the number may belong to, the likeliest first; each carrier once.

    A right check digit counts most, then how much else of the number is fixed.
    """
    found: list[tuple[int, int, Candidate]] = []
    for form in _FORMS:
        number = normalise(form.carrier, text)
        if form.offered and form.fits(form.carrier, number):
            verdict = form.verdict(number)
            candidate = Candidate(form.carrier, form.name, number, verdict)
            found.append((_ORDER[verdict], -form.fixed, candidate))
    found.sort(key=lambda each: each[:2])  # stable: forms of equal rank keep the table's order
    once: dict[str, Candidate] = {}
    for _, _, candidate in found:
        once.setdefault(candidate.carrier, candidate)
    return list(once.values())


_ORDER: Final[dict[Checksum, int]] = {"valid": 0, "none": 1, "invalid": 2}

# --------------------------------------------------------------------------- check digits


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    """The sum of the digits, each times its weight; the weights repeat."""
    return sum(digit * weights[i % len(weights)] for i, digit in enumerate(digits))


def _digits(text: str) -> list[int]:
    return [int(character) for character in text]


def _gs1(number: str) -> bool:
    """GS1: weights 3, 1, 3 … from the right, without the check digit."""
    return (_weighted(_digits(number[-2::-1]), (3, 1)) + int(number[-1])) % 10 == 0


def _ups(number: str) -> bool:
    """Weights 1, 2, 1 … from the left; a letter is A = 2, B = 3 … of which the last digit."""
    values = [int(c) if c.isdigit() else (ord(c) - 3) % 10 for c in number[:-1]]
    return (_weighted(values, (1, 2)) + int(number[-1])) % 10 == 0


def _fedex_express(number: str) -> bool:
    return _weighted(_digits(number[:-1]), (3, 1, 7)) % 11 % 10 == int(number[-1])


def _fedex_barcode(number: str) -> bool:
    """The last 14 of 34 digits: as Express, with two digits more in front."""
    return _weighted(_digits(number[-14:-1]), (1, 7, 3)) % 11 % 10 == int(number[-1])


def _dhl_express(number: str) -> bool:
    return int(number[:-1]) % 7 == int(number[-1])


def _s10(number: str) -> bool:
    remainder = _weighted(_digits(number[2:10]), (8, 6, 4, 2, 3, 5, 9, 7)) % 11
    digit = {0: 5, 1: 0}.get(remainder, 11 - remainder)
    return digit == int(number[10]) and number[11:] in POSTAL


def _usps_20(number: str) -> bool:
    """With its own check digit, or with that of the 22 digits it is the end of."""
    return _gs1(number) or _gs1("91" + number)


# --------------------------------------------------------------------------- formats


@dataclass(frozen=True, slots=True)
class _Form:
    carrier: str
    name: str
    pattern: re.Pattern[str]
    right: Callable[[str], bool] | None  # None = no check digit
    fixed: int  # how many characters of it are fixed: what tells it from chance
    offered: bool = True

    def fits(self, carrier: str, number: str) -> bool:
        return carrier == self.carrier and self.pattern.fullmatch(number) is not None

    def verdict(self, number: str) -> Checksum:
        if self.right is None:
            return "none"
        return "valid" if self.right(number) else "invalid"


def _form(
    carrier: str,
    name: str,
    pattern: str,
    right: Callable[[str], bool] | None,
    fixed: int,
    offered: bool = True,
) -> _Form:
    return _Form(carrier, name, re.compile(pattern, re.ASCII), right, fixed, offered)


_S10_OF: Final = r"[A-Z]{2}\d{9}"
_S10: Final = "UPU S10"

_FORMS: Final = (
    _form("ups", "UPS 1Z", r"1Z[A-Z0-9]{15}\d", lambda n: _ups(n[2:]), 2),
    _form("ups", "UPS waybill", r"[AHJKTV]\d{10}", lambda n: _ups(n[1:]), 1),
    _form("usps", "USPS IMpb, 22 digits", r"9[2-5]\d{20}", _gs1, 2),
    _form("usps", "USPS IMpb, 26 digits", r"9[2-5]\d{24}", _gs1, 2),
    _form("usps", "USPS legacy 91", r"91\d{20}", _gs1, 2),
    _form("usps", "USPS, 20 digits", r"\d{20}", _usps_20, 0),
    _form("usps", _S10, _S10_OF + "US", _s10, 2),
    # The weights of FedEx Ground, 1, 3, 1 … from the left of 14 digits, are GS1's from the right.
    _form("fedex", "FedEx Ground 96", r"96\d{20}", lambda n: _gs1(n[-15:]), 2),
    _form("fedex", "FedEx Ground barcode, 34 digits", r"96\d{32}", _fedex_barcode, 2),
    _form("fedex", "FedEx Express barcode, 34 digits", r"100\d{31}", _fedex_barcode, 3),
    _form("fedex", "FedEx Ground Economy", r"61\d{18}", lambda n: _gs1("92" + n), 2),
    _form("fedex", "FedEx Ground", r"\d{15}", _gs1, 0),
    _form("fedex", "FedEx Express", r"\d{12}", _fedex_express, 0),
    _form("dhl", "DHL Paket", r"003404\d{14}", _gs1, 6),
    _form("dhl", "DHL piece", r"(?:JJD|JVGL|JD)\d{9,20}", None, 2),
    _form("dhl", "DHL eCommerce", r"(?:GM|LX|RX|UV|CN|SG|TH|IN|HK|MY)\d{10,38}", None, 2),
    _form("dhl", "DHL eCommerce, 14 digits", r"\d{14}", None, 0),
    _form("dhl", "DHL Express", r"\d{10,11}", _dhl_express, 0),
    _form("dhl", _S10, _S10_OF + "DE", _s10, 2),
    _form("royal_mail", _S10, _S10_OF + "GB", _s10, 2),
    _form("sandbox", "sandbox", r"SBX[A-Z]+\d*", None, 3),
    # Posts follow each other's items once they have them, but nothing in the number says to where
    # it goes: its check digit can be judged, its carrier not.
    _form("usps", _S10, _S10_OF + "[A-Z]{2}", _s10, 0, offered=False),
    _form("royal_mail", _S10, _S10_OF + "[A-Z]{2}", _s10, 0, offered=False),
    _form("dhl", _S10, _S10_OF + "[A-Z]{2}", _s10, 0, offered=False),
)


def _unrouted(number: str) -> str:
    """An IMpb barcode without the 420 and the ZIP or ZIP+4 code in front.

    34 digits may be ZIP+4 and 22, or ZIP and 26; the check digit tells.
    """
    if not (number.isdigit() and number.startswith("420")):
        return number
    ends = [
        number[start:]
        for start in (12, 8)
        if re.fullmatch(r"9[1-5](?:\d{20}|\d{24})", number[start:], re.ASCII)
    ]
    right = [end for end in ends if _gs1(end)]
    return (right or ends or [number])[0]


# ISO 3166-1 alpha-2, all assigned codes: what S10 marks the country of posting with.
_COUNTRIES: Final = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO "
    "BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ "
    "DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP "
    "GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG "
    "KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML "
    "MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE "
    "PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL "
    "SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM "
    "US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
POSTAL: Final = frozenset(_COUNTRIES.split())
