"""The Terraform code against an emulator of AWS: made, at work, gone again. Takes minutes.

MiniStack runs functions and event sources for real. What it lacks is taken out of the copy that is
applied: tasks and their autoscaling, functions from images, saved queries, the password that RDS
itself keeps. So predictions are not among the services; their bucket is made by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from support.sqs_server import REGION
from support.terraform import copied, initialized, run

pytestmark = [pytest.mark.timeout(1500), pytest.mark.anyio]

PREFIX = "penstock-staging"
OVERRIDE = """
terraform {
  backend "local" {}
}
provider "aws" {
  region                      = var.region
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  max_retries                 = 2 # by default a call that is not emulated hangs for minutes
  s3_use_path_style           = true
}
"""
OBJECTS_ALONE = """
module "objects" {
  source        = "../../modules/objects"
  name          = "penstock-staging"
  aws           = { account_id = "000000000000", region = var.region }
  origin        = module.stack.url
  force_destroy = true
  kms_key_arn   = "alias/aws/s3"
}
output "objects_bucket" {
  value = module.objects.bucket
}
"""
DATABASE_OVERRIDE = f"""
output "password_secret_arn" {{
  value = "arn:aws:secretsmanager:{REGION}:000000000000:secret:rds!db-emulated"
}}
"""
VARIABLES = {
    "region": REGION,
    "zones": [f"{REGION}a", f"{REGION}b"],
    "services": ["events", "tracking"],
    "secret_key_arn": f"arn:aws:secretsmanager:{REGION}:000000000000:secret:key-AbCdEf",
    "alarm_emails": ["ops@example.com"],
    "deletion_protection": False,
}
# Stands in for Penstock's own, which would want a database.
HANDLERS = """
def migrate(event, context):
    return {"answered_by": "migrate"}


def api(event, context):
    return {"statusCode": 200, "body": event["rawPath"]}


def sweeper(event, context):
    return {}


def dispatcher(event, context):
    return {}


def tracking_worker(event, context):
    return {"batchItemFailures": []}


def events_worker(event, context):
    failed = [each["messageId"] for each in event["Records"] if each["body"] == "fails"]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}
"""


@pytest.fixture(scope="module")
def credentials(emulator: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": emulator,
    }


@pytest.fixture(scope="module")
def outputs(
    credentials: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What the applied environment says of itself; it is destroyed afterwards."""
    scratch = tmp_path_factory.mktemp("apply")
    root = copied(scratch)
    folder = root / "environments" / "staging"
    (folder / "zz_override.tf").write_text(OVERRIDE)
    (folder / "objects_alone.tf").write_text(OBJECTS_ALONE)
    (root / "modules" / "database" / "zz_override.tf").write_text(DATABASE_OVERRIDE)
    (root / "modules" / "alarms" / "queries.tf").unlink()
    packages = scratch / "packages"
    packages.mkdir()
    for name in ("api", "worker", "migrate"):
        with zipfile.ZipFile(packages / f"penstock-{name}.zip", "w") as package:
            package.writestr("penstock/__init__.py", "")
            package.writestr("penstock/aws/__init__.py", "")
            package.writestr("penstock/aws/lambda_handlers.py", HANDLERS)
    given = json.dumps(VARIABLES | {"package_dir": str(packages)})
    (folder / "terraform.tfvars.json").write_text(given)

    variables = initialized(folder, scratch, backend=True) | credentials
    try:
        done = run(folder, variables, "apply", "-auto-approve", "-no-color", timeout=700)
        assert done.returncode == 0, done.stderr
        shown = json.loads(run(folder, variables, "output", "-json").stdout)
        yield {name: each["value"] for name, each in shown.items()}
    finally:
        done = run(folder, variables, "destroy", "-auto-approve", "-no-color", timeout=700)
        assert done.returncode == 0, done.stderr
        assert run(folder, variables, "state", "list").stdout == ""


async def test_an_environment_comes_up_works_and_goes(
    outputs: dict[str, Any], credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiobotocore.session import get_session

    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    session = get_session()
    assert outputs["functions"]["events"] == f"{PREFIX}-events-worker"
    async with session.create_client("lambda", region_name=REGION) as functions:
        answer = await functions.invoke(FunctionName=outputs["functions"]["migrate"])
        assert json.loads(await answer["Payload"].read()) == {"answered_by": "migrate"}
    async with session.create_client("sqs", region_name=REGION) as sqs:
        url = outputs["queues"]["events"]["url"]
        # The queue's event source gives both to the function, which keeps one.
        await sqs.send_message(QueueUrl=url, MessageBody="goes well")
        await sqs.send_message(QueueUrl=url, MessageBody="fails")
        await _holds(sqs, url, visible=0, in_flight=1)


async def _holds(sqs: Any, url: str, *, visible: int, in_flight: int) -> None:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    deadline = time.monotonic() + 60
    while True:
        answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
        found = [int(answer["Attributes"][name]) for name in names]
        if found == [visible, in_flight]:
            return
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


def test_the_emulator_keeps_what_was_asked_for(outputs: dict[str, Any]) -> None:
    assert set(outputs["queues"]) == {"events", "jobs", "tracking"}
    assert len(outputs["egress_addresses"]) == 1
    assert outputs["dashboard"] == PREFIX


async def test_what_was_written_over_can_still_be_read(
    outputs: dict[str, Any], credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    there = {"Bucket": outputs["objects_bucket"], "Key": "objects/accounts/default/upl_1"}
    config = AioConfig(s3={"addressing_style": "path"})
    async with get_session().create_client("s3", region_name=REGION, config=config) as s3:
        first = await s3.put_object(**there, Body=b"confirmed")
        await s3.put_object(**there, Body=b"written over")
        found = await s3.get_object(**there, VersionId=first["VersionId"])
        assert await found["Body"].read() == b"confirmed"
        blocked = await s3.get_public_access_block(Bucket=there["Bucket"])
        assert all(blocked["PublicAccessBlockConfiguration"].values())
