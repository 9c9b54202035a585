"""Requests made up from the API's own description: no answer that it does not describe."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.process import Up
from support.scoring import starter_csv

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Nothing of what is made up here may reach a real carrier.
NOWHERE = {
    f"PENSTOCK_{carrier}_URL": "http://127.0.0.1:9"
    for carrier in ("UPS", "USPS", "FEDEX", "DHL", "ROYAL_MAIL")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("openapi") / "data", env=NOWHERE) as running:
        yield running


def _post(server: Up, path: str, body: bytes, content_type: str) -> Any:
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": content_type}
    request = urllib.request.Request(server.url + path, body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.timeout(300)
def test_answers_are_as_described(server: Up) -> None:
    """Every operation of tracking, with things that exist and with things that do not."""
    parcel = json.dumps({"carrier": "sandbox", "tracking_number": "SBXTOUR1"}).encode()
    shipment = _post(server, "/v1/shipments", parcel, "application/json")
    csv = b"carrier,tracking_number\nsandbox,SBXTOUR1\nhermes,1\n"
    imported = _post(server, "/v1/shipments/imports", csv, "text/csv")
    known = {
        "shipment_id": shipment["shipment_id"],
        "import_id": imported["import_id"],
        "carrier": "sandbox",
    }
    operations = _operations(server, r"^/v1/(shipments|carriers|templates/shipments)")
    assert len(operations) == 20
    seen = _play_all(server, operations, known)
    assert seen >= {200, 201, 202, 204, 400, 404, 409, 422}  # good ones and bad ones were made up


@pytest.mark.timeout(300)
def test_answers_of_predictions_are_as_described(server: Up) -> None:
    """Every operation of uploads, predictions and models, in the same way."""
    scored = _post(server, "/v1/predictions", starter_csv(30), "text/csv")
    asked = {"upload_id": scored["upload_id"], "label_column": "plan", "id_column": "customer_id"}
    model = _post(server, "/v1/models", json.dumps(asked).encode(), "application/json")
    known = {
        "upload_id": scored["upload_id"],
        "prediction_id": scored["prediction_id"],
        "model_id": model["model_id"],
        "number": 1,
    }
    operations = _operations(server, r"^/v1/(uploads|predictions|models|templates/churn)")
    assert len(operations) == 33
    seen = _play_all(server, operations, known)
    assert seen >= {200, 202, 204, 400, 404, 409, 422}


@pytest.mark.timeout(300)
def test_answers_of_operations_are_as_described(server: Up) -> None:
    """Every operation on lanes, dead work, jobs and figures."""
    endpoint = {"target": "http://127.0.0.1:9/", "event_types": ["made.up"]}
    made = _post(server, "/v1/endpoints", json.dumps(endpoint).encode(), "application/json")
    known = {"lane": f"delivery:{made['endpoint_id']}", "kind": "delivery"}
    operations = _operations(server, r"^/v1/(lanes|dead|jobs|figures)")
    assert len(operations) == 15
    seen = _play_all(server, operations, known)
    assert seen >= {200, 202, 400, 404, 422}


def _operations(server: Up, paths: str) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    chosen = schema.include(path_regex=paths)
    return [result.ok() for result in chosen.get_all_operations()]


def _play_all(server: Up, operations: list[Any], known: dict[str, Any]) -> set[int]:
    seen: set[int] = set()
    # What deletes the known things comes last.
    for operation in sorted(operations, key=lambda each: each.method == "delete"):
        seen |= _play(server, operation, known)
    return seen


def _play(server: Up, operation: Any, known: dict[str, Any]) -> set[int]:
    """The statuses of the answers to some requests of one operation, which must be described."""
    seen: set[int] = set()

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), exists=st.booleans())
    def play(case: Any, exists: bool) -> None:
        if exists:
            case.path_parameters = {
                name: known.get(name, value) for name, value in (case.path_parameters or {}).items()
            }
            if isinstance(case.body, dict) and "carrier" in case.body:
                case.body = case.body | {"carrier": "sandbox", "tracking_number": "SBXTOUR2"}
            if isinstance(case.body, dict) and "kind" in case.body and "kind" in known:
                case.body = {"kind": known["kind"], "all": True}
        headers = {"Authorization": f"Bearer {server.token}"}
        answer = case.call_and_validate(headers=headers, checks=CHECKS, timeout=30)
        seen.add(answer.status_code)

    play()
    return seen
