"""The peer of `accept`: FastAPI and uvicorn with the same models, and nothing behind them."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

app = FastAPI()


class Event(BaseModel):
    event_type: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")
    payload: dict[str, Any]
    metadata: dict[str, Any] | None = None
    idempotency_key: str | None = None


class Delivery(BaseModel):
    delivery_id: str
    endpoint_id: str
    status: str
    attempts: int
    next_attempt_at: str | None


class Answer(BaseModel):
    event_id: str
    event_type: str
    status: str
    created_at: str
    delivered_at: str | None
    delivery_attempts: int
    message: str
    deliveries: list[Delivery]


@app.post("/v1/events", status_code=202)
async def accept(event: Event) -> Answer:
    return Answer(
        event_id="evt_01kdvq5x3s7hf9a2b4c6d8e0gm",
        event_type=event.event_type,
        status="pending",
        created_at="2026-01-02T03:04:05.678901Z",
        delivered_at=None,
        delivery_attempts=0,
        message="Accepted: 1 delivery to make.",
        deliveries=[
            Delivery(
                delivery_id="dlv_01kdvq5x3s7hf9a2b4c6d8e0gm",
                endpoint_id="ep_01kdvq5x3s7hf9a2b4c6d8e0gm",
                status="pending",
                attempts=0,
                next_attempt_at="2026-01-02T03:04:05.678901Z",
            )
        ],
    )


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
