from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

from celery import Celery

URL = os.environ["SQS_QUEUE_URL"]
SERVER = urlsplit(URL)

app = Celery("bench", broker=f"sqs://testing:testing@{SERVER.netloc}")
app.conf.update(
    broker_transport_options={
        "region": "eu-west-1",
        "is_secure": False,
        "predefined_queues": {
            "celery": {
                "url": URL,
                "access_key_id": "testing",
                "secret_access_key": "testing",
            }
        },
        "wait_time_seconds": 20,
    },
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=10,
    worker_send_task_events=False,
)


@app.task(name="noop")
def noop(number: int) -> None: ...


if __name__ == "__main__":
    for each in range(int(sys.argv[1])):
        noop.delay(each)
