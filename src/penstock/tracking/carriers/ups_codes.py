"""What UPS's status codes mean.

Source: the appendix "Status/Description Codes" of UPS's Track API, complete up to 169. None
stands for what says nothing of where the parcel is: a change that was asked for, a claim, a photo.
"""

from __future__ import annotations

from typing import Final

from penstock.tracking.carriers.read import RETURNING
from penstock.tracking.status import RETURNED, Status

Meaning = tuple[Status, str | None]

_BY_MEANING: Final[dict[Meaning | None, str]] = {
    ("pre_transit", None): "003 044 045 080 157 166",
    ("pre_transit", "pickup_scheduled"): "077",
    ("pre_transit", "pickup_attempted"): "065 131 135",
    ("in_transit", None): "005 010 016 025 039 047 057 070 079 087 093 094 138 158 159 164 165",
    ("in_transit", "picked_up"): "038 160 167 168 169",
    ("in_transit", "handed_over"): "073 074 137",
    ("in_transit", "held"): "019",
    ("in_transit", "rescheduled"): "055 136",
    ("in_transit", "customs"): "012 092 123 126",
    ("in_transit", "customs_cleared"): "014 084 134",
    ("out_for_delivery", None): "006 021 037 071 072 075 078 089 091 146 162",
    ("available_for_pickup", None): "017 040 106 108 144",
    ("attempt_failed", None): "022 023 024 060 066 145",
    ("attempt_failed", "signature_required"): "061",
    ("attempt_failed", "payment_required"): "062",
    ("delivered", None): "011 026",
    ("delivered", "to_agent"): "143",
    ("delivered", "to_access_point"): "161",
    ("return_to_sender", "return_requested"): "033 118 119",
    ("return_to_sender", RETURNING): "034 035 036 067 081",
    ("exception", None): "013 029 030 076",
    ("exception", "delay"): "046 048 049 086 090",
    ("exception", "weather"): "032 051 052 053",
    ("exception", "address"): "050",
    ("exception", "customs_information_required"): "058 124 125 141",
    ("exception", "damaged"): "059",
    ("exception", "refused"): "064",
    ("exception", "lost"): "068",
    ("exception", "undeliverable"): "069",
    ("exception", "held"): "083",
    ("exception", "payment_required"): "085",
    ("exception", "investigation"): "129",
    ("exception", "security"): "132 139",
    ("exception", "seized"): "147",
    ("exception", "destroyed"): "149",
    ("cancelled", None): "007",
    ("cancelled", "pickup_voided"): "043",
    None: (
        "000 018 020 027 028 041 042 054 056 063 082 088 095 096 097 098 099 100 101 102 103 104"
        " 105 107 109 110 111 112 113 114 115 116 117 120 121 122 127 128 130 133 140 142 148"
        " 153 154 155 156 163"
    ),
}

CODES: Final[dict[str, Meaning | None]] = {
    code: meaning for meaning, codes in _BY_MEANING.items() for code in codes.split()
}

# Of the activity types, which are much coarser: the answer to a code that is newer than this.
TYPES: Final[dict[str, Meaning]] = {
    "D": ("delivered", None),
    "I": ("in_transit", None),
    "X": ("exception", None),
    "P": ("in_transit", "picked_up"),
    "M": ("pre_transit", None),
    "MV": ("cancelled", None),
    "O": ("out_for_delivery", None),
    "DO": ("in_transit", None),  # delivered to the freight station of origin
    "DD": ("in_transit", None),  # … of the destination
    "W": ("in_transit", None),  # in a warehouse
    "RS": ("return_to_sender", RETURNED),
}
