from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import dramatiq
from dramatiq_sqs import SQSBroker

URL = urlsplit(os.environ["SQS_QUEUE_URL"])

broker = SQSBroker(endpoint_url=f"{URL.scheme}://{URL.netloc}", region_name="eu-west-1")
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=URL.path.rpartition("/")[2])
def noop(number: int) -> None: ...


if __name__ == "__main__":
    for each in range(int(sys.argv[1])):
        noop.send(each)
