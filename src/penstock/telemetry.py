"""Every log event and every metric of Penstock, declared once.

::

    from penstock.telemetry import DELIVERY_DEAD, DELIVERY_FAILURE, bind, log, metrics

    log(DELIVERY_DEAD, delivery_id=…, reason=…)
    metrics.inc(DELIVERY_FAILURE)
    with bind(request_id=…):     # on every line logged inside
        …

A server with nothing to do logs nothing at level `info`: what happens for each event,
delivery or request that goes well is `debug`; what will be tried again is `info`; what
somebody should look at is `warning`; what hinders the work itself is `error`.
"""

from __future__ import annotations

from typing import Final

from penstock._emf import Emf
from penstock._levels import Format, Level
from penstock._logging import LogEvent, bind, configure_logging, log
from penstock._metrics import Metric, Metrics

__all__ = [
    "Emf",
    "Format",
    "Level",
    "LogEvent",
    "Metric",
    "Metrics",
    "bind",
    "configure_logging",
    "log",
    "log_events",
    "metrics",
    "metrics_declared",
    "metrics_to_cloudwatch",
]


def _event(name: str, level: Level, description: str, *fields: str) -> LogEvent:
    return LogEvent(name, level, description, frozenset(fields))


# --- Log events: the process -------------------------------------------------------------

SERVER_STARTED: Final = _event(
    "server_started",
    "info",
    "The API listens.",
    *("url", "database", "data_dir", "services", "version", "seconds"),
)
SCHEDULER_STARTED: Final = _event(
    "scheduler_started", "info", "A process that only schedules has started.", "tasks", "database"
)
SERVER_STOPPED: Final = _event(
    "server_stopped", "info", "The process ends; if it had the API, that listens no more.", "uptime"
)
SETTING_UNKNOWN: Final = _event(
    "setting_unknown",
    "warning",
    "A setting of this name does not exist; it was ignored.",
    *("name", "source", "did_you_mean"),
)
PRIVATE_TARGETS_ALLOWED: Final = _event(
    "private_targets_allowed",
    "info",
    "Deliveries to these private networks are allowed.",
    *("networks", "reason"),
)
MIGRATION_APPLIED: Final = _event(
    "migration_applied",
    "info",
    "The database's tables were brought to this version.",
    *("from_revision", "to_revision", "backup", "seconds"),
)
SCHEMA_NEWER: Final = _event(
    "schema_newer",
    "warning",
    "The tables are those of a later version, as after a rollback; they are used as they are.",
    *("known", "error"),
)
STORAGE_FULL: Final = _event(
    "storage_full",
    "error",
    "The disk is full; nothing new is accepted until there is room.",
    *("path", "error"),
)

# --- Log events: the engine --------------------------------------------------------------

WORKER_STARTUP: Final = _event(
    "worker_startup", "info", "A worker starts.", "kinds", "slots", "database", "wakeups"
)
WORKER_READY: Final = _event("worker_ready", "info", "The worker takes work.", "seconds")
TASK_PROTECTION: Final = _event(
    "task_protection",
    "info",
    "Amazon ECS was asked to end another task than this, in which something runs for long; or need "
    "not spare it any more.",
    "on",
)
TASK_PROTECTION_FAILED: Final = _event(
    "task_protection_failed",
    "warning",
    "Amazon ECS did not agree to spare this task; it is asked again. What is ended runs elsewhere.",
    *("on", "error"),
)
WORKER_SHUTDOWN: Final = _event(
    "worker_shutdown",
    "info",
    "The worker stopped; nothing it held is lost.",
    *("uptime", "processed", "failed", "success_rate", "given_back"),
)
WORKER_LOOP_ERROR: Final = _event(
    "worker_loop_error",
    "error",
    "A loop of the worker failed and goes on after a pause.",
    *("loop", "error", "retry_in"),
)
WORK_FAILED: Final = _event(
    "work_failed",
    "warning",
    "A handler raised an exception.",
    *("kind", "id", "lane", "attempt", "error"),
)
LEASE_LOST: Final = _event(
    "lease_lost",
    "warning",
    "A held row was taken away or cancelled; its handler's result is discarded.",
    *("kind", "id", "lane", "generation"),
)
ROW_LAPSED: Final = _event(
    "row_lapsed",
    "warning",
    "A row's lease ended without news from its worker; it is owed again, or dead.",
    *("kind", "id", "lane", "lapses", "dead", "error"),
)
QUEUE_UNREACHABLE: Final = _event(
    "queue_unreachable",
    "error",
    "Wake-ups cannot be received or sent; it is tried again.",
    *("wakeups", "queue", "error", "retry_in"),
)
MESSAGE_VALIDATION_FAILED: Final = _event(
    "message_validation_failed",
    "warning",
    "A message in a queue is no wake-up; it was deleted, and this line is what is left of it.",
    *("queue", "message_id", "reason", "body"),
)
MESSAGE_LEFT: Final = _event(
    "message_left",
    "info",
    "A wake-up is for a kind of work that this process does not know; it was left in the queue.",
    *("queue", "message_id", "kind"),
)
INVOCATION_FINISHED: Final = _event(
    "invocation_finished",
    "debug",
    "A Lambda function worked off the lanes that messages named.",
    *("messages", "processed", "failed", "returned", "seconds"),
)
INVOCATION_FAILED: Final = _event(
    "invocation_failed",
    "error",
    "A Lambda function could not do what it was called for; the messages come again.",
    *("messages", "error"),
)
DEAD_LETTERS_UNSEEN: Final = _event(
    "dead_letters_unseen",
    "info",
    "SQS does not let this process see how many dead letters there are; it asks no more.",
    "error",
)
LANE_UNKNOWN: Final = _event(
    "lane_unknown",
    "debug",
    "A wake-up named a lane that does not exist, perhaps no more; nothing was owed.",
    *("kind", "lane"),
)
CIRCUIT_OPENED: Final = _event(
    "circuit_opened",
    "warning",
    "A lane's peer is in trouble; nothing is sent to it for a while.",
    *("lane", "kind", "account", "reason", "seconds"),
)
CIRCUIT_HALF_OPENED: Final = _event(
    "circuit_half_opened",
    "info",
    "One row goes through an open lane as a probe.",
    *("lane", "kind", "account"),
)
CIRCUIT_CLOSED: Final = _event(
    "circuit_closed",
    "info",
    "A lane's peer answers again.",
    *("lane", "kind", "account", "reason"),
)

# --- Log events: jobs --------------------------------------------------------------------

JOB_SUCCEEDED: Final = _event(
    "job_succeeded", "debug", "A job returned.", "job_id", "job", "attempt", "seconds"
)
JOB_RETRIED: Final = _event(
    "job_retried",
    "info",
    "A job failed and will be tried again.",
    *("job_id", "job", "attempt", "seconds", "retry_in", "error"),
)
JOB_DEAD: Final = _event(
    "job_dead",
    "warning",
    "A job failed for good; it is kept, with its error.",
    *("job_id", "job", "attempt", "seconds", "error"),
)
JOB_RESULT_DROPPED: Final = _event(
    "job_result_dropped",
    "warning",
    "A job succeeded, but what it returned could not be stored; its result is null.",
    *("job_id", "job", "error"),
)
CRON_ENQUEUED: Final = _event(
    "cron_enqueued", "debug", "A scheduled job's time came.", "job_id", "job", "due"
)

# --- Log events: events and deliveries ---------------------------------------------------

EVENT_ACCEPTED: Final = _event(
    "event_accepted",
    "debug",
    "An event is stored durably.",
    *("event_id", "event_type", "account", "deliveries"),
)
EVENT_STATUS_UPDATED: Final = _event(
    "event_status_updated",
    "debug",
    "An event's status changed.",
    *("event_id", "account", "status", "previous"),
)
DELIVERY_SUCCEEDED: Final = _event(
    "delivery_succeeded",
    "debug",
    "An endpoint took a delivery.",
    *("delivery_id", "event_id", "endpoint_id", "attempt", "status_code", "seconds"),
)
DELIVERY_RETRIED: Final = _event(
    "delivery_retried",
    "info",
    "An endpoint did not take a delivery; it will be tried again.",
    *("delivery_id", "event_id", "endpoint_id", "attempt", "status_code", "seconds"),
    *("error", "retry_in"),
)
DELIVERY_DEAD: Final = _event(
    "delivery_dead",
    "warning",
    "A delivery was given up; it is kept, with its attempts.",
    *("delivery_id", "event_id", "endpoint_id", "attempt", "status_code", "seconds", "error"),
)
ENDPOINT_DISABLED: Final = _event(
    "endpoint_disabled",
    "warning",
    "An endpoint was disabled; its deliveries wait.",
    *("endpoint_id", "account", "reason"),
)

# --- Log events: tracking ----------------------------------------------------------------

TRACKING_DISPATCHED: Final = _event(
    "tracking_dispatched",
    "info",
    "Carriers' lanes in which shipments are due were woken.",
    *("shipments", "lanes", "held_back", "seconds"),
)
SHIPMENT_STATUS_UPDATED: Final = _event(
    "shipment_status_updated",
    "debug",
    "A shipment's status changed.",
    *("shipment_id", "account", "carrier", "status", "previous"),
)
CARRIER_CALLED: Final = _event(
    "carrier_called",
    "debug",
    "A carrier was asked about one or several parcels.",
    *("carrier", "numbers", "outcome", "seconds"),
)
CARRIER_CREDENTIAL_REFUSED: Final = _event(
    "carrier_credential_refused",
    "warning",
    "A carrier does not accept the credential; its shipments wait.",
    *("carrier", "lane", "error"),
)

# --- Log events: predictions -------------------------------------------------------------

UPLOAD_RECEIVED: Final = _event(
    "upload_received",
    "debug",
    "A file was uploaded and looked at.",
    *("upload_id", "account", "size", "seconds"),
)
PREDICTION_PROCESSING_STARTED: Final = _event(
    "prediction_processing_started",
    "info",
    "A file is being scored, from this chunk on.",
    *("prediction_id", "account", "chunk"),
)
PREDICTION_CHUNK_SCORED: Final = _event(
    "prediction_chunk_scored",
    "debug",
    "One chunk of a file was scored and stored; the ledger has it once that is settled.",
    *("prediction_id", "chunk", "rows", "set_aside", "seconds"),
)
PREDICTION_PROCESSING_COMPLETED: Final = _event(
    "prediction_processing_completed",
    "info",
    "A file was scored; its result is there.",
    *("prediction_id", "account", "rows", "set_aside", "seconds"),
)
PREDICTION_PROCESSING_FAILED: Final = _event(
    "prediction_processing_failed",
    "warning",
    "A file cannot be scored, or was tried in vain; the reason is kept.",
    *("prediction_id", "account", "code", "error"),
)
PREDICTION_STATUS_UPDATED: Final = _event(
    "prediction_status_updated",
    "debug",
    "A prediction's status changed.",
    *("prediction_id", "account", "status", "previous"),
)
MODEL_TRAINED: Final = _event(
    "model_trained",
    "info",
    "A version of a model is ready.",
    *("model_id", "account", "version", "seconds"),
)
MODEL_TRAINING_FAILED: Final = _event(
    "model_training_failed",
    "info",
    "A training was refused, or has a question; the reason is kept.",
    *("model_id", "account", "version", "code", "error"),
)
PREDICTIONS_OFF: Final = _event(
    "predictions_off",
    "debug",
    "The prediction service does not run: its packages are not installed.",
    "missing",
)

# --- Log events: the API -----------------------------------------------------------------

REQUEST: Final = _event(
    "request",
    "debug",
    "A request was answered.",
    *("method", "route", "status", "seconds", "account"),
)
REQUEST_FAILED: Final = _event(
    "request_failed",
    "error",
    "A request met an unexpected error and was answered with 500.",
    *("method", "route", "error"),
)
CONSOLE_SIGNED_IN: Final = _event(
    "console_signed_in", "info", "Somebody signed in to the console.", "by"
)
CONSOLE_REFUSED: Final = _event(
    "console_refused", "warning", "Somebody could not sign in to the console.", "reason"
)
OIDC_KEYS_UNAVAILABLE: Final = _event(
    "oidc_keys_unavailable",
    "warning",
    "The keys of the token issuer could not be fetched; those known so far are used.",
    *("issuer", "error"),
)


# --- Metrics -----------------------------------------------------------------------------

WORK_SETTLED: Final = Metric(
    "penstock_work_settled_total",
    "counter",
    "rows",
    "Settled attempts by kind of work and outcome (done, retry, postpone, dead).",
    ("kind", "outcome"),
)
LEASES_LOST: Final = Metric(
    "penstock_leases_lost_total",
    "counter",
    "rows",
    "Held rows that were taken away or cancelled before they settled.",
    ("kind",),
    cloudwatch="LeaseLost",
)
ROWS_LAPSED: Final = Metric(
    "penstock_rows_lapsed_total",
    "counter",
    "rows",
    "Leases that ended without news from their worker.",
    ("kind",),
)
MESSAGES_REFUSED: Final = Metric(
    "penstock_messages_refused_total",
    "counter",
    "messages",
    "Messages in queues that were no wake-ups.",
    ("queue",),
    cloudwatch="MessagesRefused",
)
CLAIM_TO_START: Final = Metric(
    "penstock_claim_to_start_seconds",
    "histogram",
    "seconds",
    "From the claim's commit to the handler's start.",
    ("kind",),
    cloudwatch="ClaimToStart",
)
DUE_ROWS: Final = Metric(
    "penstock_due_rows",
    "gauge",
    "rows",
    "Rows that are owed now and not held.",
    ("kind",),
    cloudwatch="DueRows",
)
OLDEST_DUE_AGE: Final = Metric(
    "penstock_oldest_due_age_seconds",
    "gauge",
    "seconds",
    "How long the oldest owed row has been owed.",
    ("kind",),
    cloudwatch="OldestDueAge",
)
DEAD_ROWS: Final = Metric(
    "penstock_dead_rows",
    "gauge",
    "rows",
    "Rows that were given up.",
    ("kind",),
    cloudwatch="DeadRows",
)
DEAD_LETTERS: Final = Metric(
    "penstock_dead_letters",
    "gauge",
    "messages",
    "Messages in dead-letter queues, by the queue's name.",
    ("queue",),
    cloudwatch="DlqDepth",
)
LANES_OPEN: Final = Metric(
    "penstock_lanes_open",
    "gauge",
    "lanes",
    "Lanes whose circuit is open.",
    ("kind",),
    cloudwatch="LanesOpen",
)
JOB_DURATION: Final = Metric(
    "penstock_job_duration_seconds",
    "histogram",
    "seconds",
    "How long a job's function ran.",
    ("job",),
    cloudwatch="JobDuration",
)
EVENTS_ACCEPTED: Final = Metric(
    "penstock_events_accepted_total", "counter", "events", "Events stored durably."
)
INBOX_LEASED: Final = Metric(
    "penstock_inbox_leased_total", "counter", "events", "Events leased to readers of the inbox."
)
INBOX_ACKNOWLEDGED: Final = Metric(
    "penstock_inbox_acknowledged_total",
    "counter",
    "events",
    "Events that readers of the inbox acknowledged.",
)
DELIVERY_SUCCESS: Final = Metric(
    "penstock_delivery_success_total",
    "counter",
    "deliveries",
    "Deliveries that an endpoint took.",
    cloudwatch="DeliverySuccess",
)
DELIVERY_FAILURE: Final = Metric(
    "penstock_delivery_failure_total",
    "counter",
    "deliveries",
    "Deliveries that were given up.",
    cloudwatch="DeliveryFailure",
)
DELIVERY_RETRY: Final = Metric(
    "penstock_delivery_retry_total",
    "counter",
    "deliveries",
    "Failed attempts that will be tried again.",
    cloudwatch="DeliveryRetry",
)
DELIVERY_LATENCY: Final = Metric(
    "penstock_delivery_latency_seconds",
    "histogram",
    "seconds",
    "From an event's acceptance to its delivery, retries included.",
    cloudwatch="DeliveryLatency",
)
CARRIER_CALLS: Final = Metric(
    "penstock_carrier_calls_total",
    "counter",
    "calls",
    "Calls to carriers by what came of them (found, not_found, unavailable, rate_limited, …).",
    ("carrier", "outcome"),
    cloudwatch="CarrierCalls",
    by=("outcome",),
)
CARRIER_CALL_DURATION: Final = Metric(
    "penstock_carrier_call_duration_seconds",
    "histogram",
    "seconds",
    "From a call's start to its answer, getting a token included.",
    ("carrier",),
    cloudwatch="CarrierCallDuration",
)
SHIPMENT_CHANGES: Final = Metric(
    "penstock_shipment_changes_total",
    "counter",
    "shipments",
    "Changes of shipments' statuses, by the new status.",
    ("status",),
)
ROWS_SCORED: Final = Metric(
    "penstock_rows_scored_total",
    "counter",
    "rows",
    "Rows of completed predictions.",
    cloudwatch="RowsScored",
)
CHUNK_DURATION: Final = Metric(
    "penstock_prediction_chunk_seconds",
    "histogram",
    "seconds",
    "How long scoring and storing one chunk took, waiting for a process left out.",
)
UNITS_PER_COMMIT: Final = Metric(
    "penstock_units_per_commit",
    "histogram",
    "units",
    "Units of work that shared one commit of the SQLite writer.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
HTTP_REQUESTS: Final = Metric(
    "penstock_http_requests_total",
    "counter",
    "requests",
    "Answered requests by method, route template and status.",
    ("method", "route", "status"),
)
HTTP_REQUEST_DURATION: Final = Metric(
    "penstock_http_request_duration_seconds",
    "histogram",
    "seconds",
    "From a request's head to its answer's last byte.",
    ("method", "route"),
)


def log_events() -> dict[str, LogEvent]:
    """Every declared log event, by the name of its constant."""
    return {key: value for key, value in globals().items() if isinstance(value, LogEvent)}


def metrics_declared() -> dict[str, Metric]:
    """Every declared metric, by the name of its constant."""
    return {key: value for key, value in globals().items() if isinstance(value, Metric)}


metrics: Final = Metrics(metrics_declared().values())


def metrics_to_cloudwatch(namespace: str) -> Emf:
    """From now on keep what CloudWatch is to know, under this name, until it is flushed."""
    emf = Emf(namespace)
    metrics.send_to(emf)
    return emf
