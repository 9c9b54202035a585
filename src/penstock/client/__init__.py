"""A client of Penstock's HTTP API.

::

    from penstock.client import Client

    with Client() as penstock:
        sent = penstock.events.send("order.created", {"order": 1042})
        for event in penstock.events.list(status="failed"):
            print(event.event_id, event.message)

`AsyncClient` has the same methods, to be awaited; its lists are read by ``async for``.

Which server: the arguments ``url`` and ``key``, else PENSTOCK_URL and PENSTOCK_KEY, else the
server that runs on the data folder (``data_dir``, PENSTOCK_DATA_DIR or ``penstock-data``).

Every call is tried again (by default five times, over some six seconds) after an answer that
promises better luck and, where repeating it does no harm, after a lost connection. Sending an
event is always repeatable: it carries an idempotency key. What fails for good raises `ApiError`
(the server says no) or `Unreachable` (no server says anything).
"""

from __future__ import annotations

from penstock.client.asynchronous import AsyncClient
from penstock.client.blocking import Client
from penstock.client.calls import ApiError, Unreachable
from penstock.client.endpoints import (
    CreatedEndpoint,
    Endpoint,
    EndpointChanges,
    EndpointOptions,
    RotatedSecret,
    SentTest,
)
from penstock.client.events import (
    AcceptedEvent,
    Attempt,
    Batch,
    BatchResult,
    BatchSummary,
    Delivery,
    DeliveryDetail,
    Event,
    EventDetail,
    NewEvent,
    ReplayedEvent,
    Why,
)
from penstock.client.inbox import InboxEvent, InboxOutcome, Lease
from penstock.client.keys import CreatedKey, Key
from penstock.client.models import (
    Model,
    ModelDetail,
    ModelVersion,
    Promotion,
    TrainingOptions,
)
from penstock.client.outbox import OutboxItem
from penstock.client.predictions import (
    ColumnMatch,
    FileColumn,
    Note,
    Prediction,
    PredictionDetail,
    PredictionError,
    ProposedMapping,
    Quality,
    Question,
    SignedUpload,
    StoredOutcomes,
    Upload,
    UploadDetail,
)
from penstock.client.replays import Replay, ReplayFilter
from penstock.client.shipments import (
    Candidate,
    Candidates,
    Import,
    RowError,
    Scan,
    Shipment,
    ShipmentDetail,
)
from penstock.client.values import Failure, Problem, Value

__all__ = [
    "AcceptedEvent",
    "ApiError",
    "AsyncClient",
    "Attempt",
    "Batch",
    "BatchResult",
    "BatchSummary",
    "Candidate",
    "Candidates",
    "Client",
    "ColumnMatch",
    "CreatedEndpoint",
    "CreatedKey",
    "Delivery",
    "DeliveryDetail",
    "Endpoint",
    "EndpointChanges",
    "EndpointOptions",
    "Event",
    "EventDetail",
    "Failure",
    "FileColumn",
    "Import",
    "InboxEvent",
    "InboxOutcome",
    "Key",
    "Lease",
    "Model",
    "ModelDetail",
    "ModelVersion",
    "NewEvent",
    "Note",
    "OutboxItem",
    "Prediction",
    "PredictionDetail",
    "PredictionError",
    "Problem",
    "Promotion",
    "ProposedMapping",
    "Quality",
    "Question",
    "Replay",
    "ReplayFilter",
    "ReplayedEvent",
    "RotatedSecret",
    "RowError",
    "Scan",
    "SentTest",
    "Shipment",
    "ShipmentDetail",
    "SignedUpload",
    "StoredOutcomes",
    "TrainingOptions",
    "Unreachable",
    "Upload",
    "UploadDetail",
    "Value",
    "Why",
]
