"""Events: accepted durably, pushed to every subscribed endpoint, signed, retried for 28 hours.

A request's way: `routes` (parse, authenticate) → `accept` (event, deliveries and key in one
transaction) → the engine claims → `push` (sign, POST) → outcome → the engine settles, and
`settled` brings the event's status along.
"""

from __future__ import annotations
