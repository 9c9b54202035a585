"""The Terraform code, applied to a provider that only pretends: values that matter, everywhere.

`make test` looks at one environment with everything, which takes some seconds; `make test-infra`
at others, and at what is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock import telemetry, wiring
from penstock.aws import lambda_handlers
from penstock.backends import KINDS, queues
from penstock.settings import PREFIX, SERVICES, Settings, load_settings
from support.terraform import SOURCE, copied, initialized, resources, run
from support.tools import FOLDER

# One apply of everything takes half a minute of a slow, busy machine.
pytestmark = pytest.mark.timeout(600)

# Of functions alone: penstock.aws.lambda_handlers reads the secrets and sets what they stand for.
SECRETS = {"PENSTOCK_DATABASE_PASSWORD_SECRET_ARN", "PENSTOCK_SECRET_KEY_SECRET_ARN"}
DAY = 24 * 3600
WORKER = "module.events_worker[0].module.function.aws_lambda_function.this"
NAMESPACE = "Penstock/penstock-test"
# Actions that AWS knows no resource for.
WITHOUT_RESOURCE = {"ec2:Describe", "ecr:GetAuthorizationToken"}


@dataclass(frozen=True)
class State:
    """Every resource after an apply."""

    all: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The values of all resources of this type."""
        found = [each["values"] for each in self.all if each["type"] == kind]
        assert found, f"there is no {kind}"
        return found

    def at(self, address: str) -> dict[str, Any]:
        """The values of the resource whose address ends like this."""
        (found,) = [each for each in self.all if each["address"].endswith(address)]
        values: dict[str, Any] = found["values"]
        return values


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of modules/stack, initialized, and the environment for Terraform in it."""
    scratch = tmp_path_factory.mktemp("terraform")
    folder = copied(scratch) / "modules" / "stack"
    return folder, initialized(folder, scratch)


@pytest.fixture(scope="module")
def everything(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> State:
    """An environment with all that there is; made once for all processes of a test."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    kept = shared / "terraform-states.json"
    with (shared / "terraform.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            # Only here: reading the provider for its checksum takes seconds as well.
            stack: tuple[Path, dict[str, str]] = request.getfixturevalue("stack")
            kept.write_text(json.dumps(states_of(*stack, "stack")))
    (found,) = json.loads(kept.read_text()).values()
    return State(found)


@pytest.fixture(scope="module")
def thoroughly() -> None:
    if FOLDER not in os.environ:
        pytest.skip("it takes a while: make test-infra")


@pytest.fixture(scope="module")
def less(thoroughly: None, stack: tuple[Path, dict[str, str]]) -> dict[str, State]:
    found = {name: State(state) for name, state in states_of(*stack, "less").items()}
    assert set(found) == {"events", "jobs_alone"}
    return found


@pytest.fixture(scope="module")
def events(less: dict[str, State]) -> State:
    return less["events"]


@pytest.fixture(scope="module")
def jobs_alone(less: dict[str, State]) -> State:
    return less["jobs_alone"]


@pytest.fixture(scope="module", params=["events", "everything"])
def state(request: pytest.FixtureRequest) -> State:
    found: State = request.getfixturevalue(request.param)
    return found


def states_of(
    folder: Path, variables: dict[str, str], file: str
) -> dict[str, list[dict[str, Any]]]:
    """What each run of this file ends with, by its name."""
    return {
        line["@testrun"]: list(resources(line["test_state"]["root_module"]))
        for line in lines_of(folder, variables, file, "-verbose")
        if line["type"] == "test_state"
    }


def lines_of(
    folder: Path, variables: dict[str, str], file: str, *options: str
) -> list[dict[str, Any]]:
    """What `terraform test` says of this file, which passes."""
    wanted = f"-filter=tests/{file}.tftest.hcl"
    done = run(folder, variables, "test", "-json", wanted, *options, timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    trouble = [line["@message"] for line in lines if line.get("@level") in ("error", "warn")]
    assert trouble == []
    assert done.returncode == 0, done.stderr
    return lines


# ------------------------------------------------------------------ queues and functions


def test_a_message_stays_hidden_for_six_times_the_function_s_timeout(state: State) -> None:
    worker = state.at(WORKER)
    queue = state.at('module.queue["events"].aws_sqs_queue.this')
    assert queue["visibility_timeout_seconds"] == 6 * worker["timeout"] == 360


def test_queues_keep_messages_long_enough_and_dead_letters_longer(state: State) -> None:
    kept = {}
    for service in ("events", "jobs"):
        queue = state.at(f'module.queue["{service}"].aws_sqs_queue.this')
        dead = state.at(f'module.queue["{service}"].aws_sqs_queue.dead')
        kept[service] = queue["message_retention_seconds"]
        assert dead["message_retention_seconds"] == 14 * DAY > kept[service]
        assert json.loads(queue["redrive_policy"])["maxReceiveCount"] == 10
        assert queue["receive_wait_time_seconds"] == 20
    assert kept == {"events": 7 * DAY, "jobs": 4 * DAY}


def test_queues_are_encrypted_and_refuse_plain_http(state: State) -> None:
    queues = state.of("aws_sqs_queue")
    assert all(queue["sqs_managed_sse_enabled"] for queue in queues)
    policies = [json.loads(each["policy"]) for each in state.of("aws_sqs_queue_policy")]
    assert len(policies) == len(queues)
    for policy in policies:
        (statement,) = policy["Statement"]
        assert statement["Effect"] == "Deny"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_workers_take_batches_at_once_and_report_what_failed(state: State) -> None:
    for source in state.of("aws_lambda_event_source_mapping"):
        assert source["batch_size"] == 10
        assert source["maximum_batching_window_in_seconds"] == 0
        assert source["function_response_types"] == ["ReportBatchItemFailures"]
        assert source["scaling_config"][0]["maximum_concurrency"] == 10


def test_functions_run_the_code_that_there_is(state: State) -> None:
    handlers = {each["function_name"]: each for each in state.of("aws_lambda_function")}
    expected = {"api": 30, "events-worker": 60, "migrate": 900, "sweeper": 55}
    if "penstock-test-tracking-worker" in handlers:
        expected |= {"tracking-worker": 60, "dispatcher": 60}
    assert {name: each["timeout"] for name, each in handlers.items()} == {
        f"penstock-test-{name}": timeout for name, timeout in expected.items()
    }
    for name, function in handlers.items():
        wanted = name.removeprefix("penstock-test-").replace("-", "_")
        handler = f"penstock.aws.lambda_handlers.{wanted}"
        assert getattr(lambda_handlers, wanted)
        if function["package_type"] == "Zip":
            assert (function["handler"], function["runtime"]) == (handler, "python3.13")
            assert function["memory_size"] == (256 if wanted == "dispatcher" else 512)
        else:
            assert function["image_config"][0]["command"] == [handler]
            assert function["memory_size"] == (1024 if wanted == "api" else 512)
        assert len(function["vpc_config"][0]["subnet_ids"]) == 2


def test_only_what_needs_numpy_and_pyarrow_runs_from_the_image(everything: State) -> None:
    """Predictions are named to nobody whose package cannot have them: it would not start."""
    whole = everything
    (task,) = whole.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    images = set()
    for function in whole.of("aws_lambda_function"):
        name = function["function_name"].removeprefix("penstock-test-")
        given = function["environment"][0]["variables"].get("PENSTOCK_SERVICES", "").split(",")
        if function["package_type"] == "Image":
            images.add(name)
            assert function["image_uri"] == container["image"]
            assert function["image_config"][0]["entry_point"] == ["python", "-m", "awslambdaric"]
            assert given == ["events", "predictions", "tracking"]
        elif name != "migrate":  # which reads the address of the database alone
            assert given == ["events", "tracking"]
    assert images == {"api", "sweeper"}
    (policy,) = whole.of("aws_ecr_repository_policy")
    (statement,) = json.loads(policy["policy"])["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Condition"]["ArnLike"]["aws:SourceArn"].endswith(":function:penstock-test-*")


def test_shipments_are_tracked(everything: State) -> None:
    tracked = everything
    queue = tracked.at('module.queue["tracking"].aws_sqs_queue.this')
    assert queue["visibility_timeout_seconds"] == 360
    assert queue["message_retention_seconds"] == 4 * DAY
    source = tracked.at("module.tracking_worker[0].aws_lambda_event_source_mapping.queue")
    assert source["event_source_arn"] == queue["arn"]
    schedule = tracked.at("module.dispatch[0].aws_scheduler_schedule.this")
    assert schedule["schedule_expression"] == "rate(1 hour)"


def test_the_sweeper_is_called_each_minute_and_never_twice(state: State) -> None:
    schedule = state.at("module.sweep.aws_scheduler_schedule.this")
    assert schedule["schedule_expression"] == "rate(1 minute)"
    assert schedule["target"][0]["retry_policy"][0]["maximum_retry_attempts"] == 0
    once = state.at("module.sweep.aws_lambda_function_event_invoke_config.once")
    assert once["maximum_retry_attempts"] == 0
    sweeper = state.at("module.sweeper.aws_lambda_function.this")
    assert sweeper["timeout"] < 60


def settings_of(function: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = function["environment"][0]["variables"]
    return found


def settings_of_tasks(state: State) -> dict[str, str]:
    (task,) = state.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    return {each["name"]: each["value"] for each in container["environment"]}


def test_every_setting_that_a_process_is_given_exists(everything: State) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for function in everything.of("aws_lambda_function"):
        assert set(settings_of(function)) - SECRETS <= known, function["function_name"]
    (task,) = everything.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    names = {each["name"] for each in container["environment"] + container["secrets"]}
    assert names - {"PGPASSWORD", "SHOP_TOKEN"} <= known


def test_every_process_can_start_with_the_settings_that_it_is_given(
    everything: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it would: read, checked, with a queue for each service that it has."""
    monkeypatch.chdir(tmp_path)  # where no .env is
    processes = [settings_of(each) for each in everything.of("aws_lambda_function")]
    for given in [*processes, settings_of_tasks(everything)]:
        with monkeypatch.context() as patch:
            for name in set(os.environ):
                if name.startswith(PREFIX):
                    patch.delenv(name)
            for name in given.keys() - SECRETS:
                patch.setenv(name, given[name])
            settings = load_settings()
            if settings.wakeups == "sqs":
                found = queues(settings)
                asked = ("jobs", *settings.services)
                assert set(found) == {kind for service in asked for kind in KINDS[service]}
                assert wiring.private_targets(settings) == ()


def test_all_processes_that_need_it_are_told_of_the_same_bucket(everything: State) -> None:
    state = everything
    url = "s3://penstock-test-objects-123456789012-eu-west-1/objects"
    assert settings_of_tasks(state)["PENSTOCK_OBJECTS"] == url
    for name in ("api_function", "sweeper"):
        function = state.at(f"module.{name}.aws_lambda_function.this")
        assert settings_of(function)["PENSTOCK_OBJECTS"] == url
    assert "PENSTOCK_OBJECTS" not in settings_of(state.at(WORKER))


def test_services_are_those_of_the_code(everything: State) -> None:
    text = (SOURCE / "modules" / "stack" / "variables.tf").read_text()
    (allowed,) = re.findall(r"setsubtract\(var\.services, (\[[^]]*])\)", text)
    assert set(json.loads(allowed)) == set(SERVICES) - {"jobs"}
    late = [
        each["values"]["dimensions"]["kind"]
        for each in everything.all
        if ".oldest_due[" in each["address"]
    ]
    assert sorted(late) == sorted(kind for service in SERVICES for kind in KINDS[service])
    function = everything.at("module.api_function.aws_lambda_function.this")
    given = function["environment"][0]["variables"]["PENSTOCK_SERVICES"]
    assert set(given.split(",")) <= set(SERVICES)


def test_no_process_is_told_a_secret(everything: State) -> None:
    """Values are in Secrets Manager; what is in the environment can be read in the console."""
    for function in everything.of("aws_lambda_function"):
        variables = function["environment"][0]["variables"]
        assert "PENSTOCK_SECRET_KEY" not in variables
        assert re.fullmatch(
            r"postgresql://penstock@[^:@/]+:5432/penstock\?sslmode=require",
            variables["PENSTOCK_DATABASE_URL"],
        )
    (database,) = everything.of("aws_db_instance")
    assert database["manage_master_user_password"] is True
    assert database["password"] is None


# ------------------------------------------------------------------ who may do what


def statements(state: State) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in state.all:
        if each["type"] == "aws_iam_role_policy":
            for statement in json.loads(each["values"]["policy"])["Statement"]:
                yield each["address"], statement


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_policies_name_actions_and_resources(everything: State) -> None:
    looked_at = 0
    for address, statement in statements(everything):
        if statement["Effect"] == "Deny":
            continue
        looked_at += 1
        for action in as_list(statement["Action"]):
            assert "*" not in action, address
            if "*" in as_list(statement.get("Resource", [])):
                assert action.startswith(tuple(WITHOUT_RESOURCE)), f"{address}: {action} on *"
    assert looked_at > 20


def test_each_function_may_do_what_it_needs_and_no_more(everything: State) -> None:
    services: dict[str, set[str]] = {}
    for address, statement in statements(everything):
        if statement["Effect"] == "Deny" or statement.get("Sid") in (
            "AttachToNetwork",
            "LookAtNetwork",
            "WriteLog",
        ):
            continue
        module = address.split(".")[1]
        services.setdefault(module, set()).update(as_list(statement["Action"]))
    read = {"secretsmanager:GetSecretValue", "kms:Decrypt"}
    receive = {
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueAttributes",
    }
    send = {"ses:SendEmail", "ses:SendRawEmail", "sns:Publish"}
    objects = {
        *("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket"),
        *("s3:PutObject", "kms:Decrypt", "kms:GenerateDataKey"),
    }
    assert services["migrate"] == read
    assert services["api_function"] == read | objects | {"sqs:SendMessage"}
    assert services["sweeper"] == read | objects | {"sqs:SendMessage", "sqs:GetQueueAttributes"}
    assert services["events_worker[0]"] == read | receive | {"sqs:SendMessage"} | send
    assert services["tracking_worker[0]"] == read | receive | {"sqs:SendMessage"}
    assert services["dispatcher[0]"] == read | {"sqs:SendMessage"}
    assert services["sweep"] == {"lambda:InvokeFunction", "kms:Decrypt"}
    work = role_of(everything, "module.worker[0].aws_iam_role_policy.task")
    spared = {"ecs:GetTaskProtection", "ecs:UpdateTaskProtection"}
    assert work == receive | {"sqs:SendMessage"} | objects | send | spared


def test_with_events_alone_there_is_nothing_of_the_others(events: State) -> None:
    kinds = {each["type"] for each in events.all}
    assert not [kind for kind in kinds if kind.startswith(("aws_s3_", "aws_ecs_", "aws_appautos"))]
    assert not [each for each in events.all if "tracking" in each["address"]]
    assert {each["package_type"] for each in events.of("aws_lambda_function")} == {"Zip"}
    for function in events.of("aws_lambda_function"):
        assert "PENSTOCK_OBJECTS" not in settings_of(function)
    actions = {
        action for _, statement in statements(events) for action in as_list(statement["Action"])
    }
    assert not [action for action in actions if action.startswith(("s3:", "ecs:"))]


def test_tasks_for_jobs_alone_may_do_little(jobs_alone: State) -> None:
    work = role_of(jobs_alone, "module.worker[0].aws_iam_role_policy.task")
    assert {action.split(":")[0] for action in work} == {"ecs", "sqs"}
    assert settings_of_tasks(jobs_alone)["PENSTOCK_SERVICES"] == ""
    (task,) = jobs_alone.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    assert container["command"] == ["worker"]  # without an app it declares none
    assert (task["cpu"], task["memory"]) == ("512", "1024")
    assert not [each for each in jobs_alone.all if each["type"].startswith("aws_s3_")]
    assert len(jobs_alone.of("aws_sqs_queue")) == 2


def test_where_tasks_come_and_go_their_absence_is_no_alarm(jobs_alone: State) -> None:
    (target,) = jobs_alone.of("aws_appautoscaling_target")
    assert (target["min_capacity"], target["max_capacity"]) == (0, 4)
    assert not [each for each in jobs_alone.all if "no_task" in each["address"]]


def role_of(state: State, address: str) -> set[str]:
    """What a role's policy allows."""
    return {
        action
        for statement in json.loads(state.at(address)["policy"])["Statement"]
        for action in as_list(statement["Action"])
    }


def test_without_being_asked_no_mail_text_or_queue_is_permitted(events: State) -> None:
    actions = {
        (statement.get("Sid"), action)
        for _, statement in statements(events)
        for action in as_list(statement["Action"])
    }
    assert not {action for _, action in actions if action.startswith(("ses:", "sns:"))}
    assert not {sid for sid, _ in actions if sid == "SendToQueues"}


def test_no_function_s_own_code_may_touch_the_network(everything: State) -> None:
    roles = [each for each in everything.all if each["type"] == "aws_lambda_function"]
    denied = [statement for _, statement in statements(everything) if statement["Effect"] == "Deny"]
    assert len(denied) == len(roles)
    for statement in denied:
        assert statement["Sid"] == "NotForTheCode"
        assert statement["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"].startswith(
            "arn:aws:lambda:eu-west-1:123456789012:function:penstock-test-"
        )


# ------------------------------------------------------------------ data


def test_everything_that_is_stored_is_encrypted_with_the_environment_s_key(
    everything: State,
) -> None:
    (key,) = everything.of("aws_kms_key")
    assert key["enable_key_rotation"] is True
    (database,) = everything.of("aws_db_instance")
    assert database["storage_encrypted"] is True
    assert database["kms_key_id"] == database["master_user_secret_kms_key_id"] == key["arn"]
    for group in everything.of("aws_cloudwatch_log_group"):
        assert group["kms_key_id"] == key["arn"]
        assert group["retention_in_days"] == (7 if group["name"].startswith("/ecs/") else 14)
    (topic,) = everything.of("aws_sns_topic")
    assert topic["kms_master_key_id"] == key["arn"]
    (images,) = everything.of("aws_ecr_repository")
    assert images["encryption_configuration"][0]["kms_key"] == key["arn"]
    assert images["image_tag_mutability"] == "IMMUTABLE"
    for function in everything.of("aws_lambda_function"):
        assert function["kms_key_arn"] == key["arn"]


def test_objects_are_private_sealed_and_can_be_brought_back(everything: State) -> None:
    (bucket,) = everything.of("aws_s3_bucket")
    assert bucket["bucket"] == "penstock-test-objects-123456789012-eu-west-1"
    assert bucket["force_destroy"] is False
    (blocked,) = everything.of("aws_s3_bucket_public_access_block")
    shut = ("block_public_acls", "block_public_policy", "ignore_public_acls")
    assert all(blocked[name] for name in (*shut, "restrict_public_buckets"))
    (ownership,) = everything.of("aws_s3_bucket_ownership_controls")
    assert ownership["rule"][0]["object_ownership"] == "BucketOwnerEnforced"
    (versioning,) = everything.of("aws_s3_bucket_versioning")
    assert versioning["versioning_configuration"][0]["status"] == "Enabled"
    (sealing,) = everything.of("aws_s3_bucket_server_side_encryption_configuration")
    (rule,) = sealing["rule"]
    (key,) = everything.of("aws_kms_key")
    assert rule["bucket_key_enabled"] is True
    assert rule["apply_server_side_encryption_by_default"] == [
        {"sse_algorithm": "aws:kms", "kms_master_key_id": key["arn"]}
    ]
    (policy,) = everything.of("aws_s3_bucket_policy")
    (statement,) = json.loads(policy["policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    (browsers,) = everything.of("aws_s3_bucket_cors_configuration")
    assert browsers["cors_rule"][0]["allowed_origins"] == ["https://events.example.com"]


def test_no_lifecycle_rule_deletes_what_can_still_be_seen(everything: State) -> None:
    (lifecycle,) = everything.of("aws_s3_bucket_lifecycle_configuration")
    rules = {rule["id"]: rule for rule in lifecycle["rule"]}
    assert all(rule["status"] == "Enabled" for rule in rules.values())
    deleted, unfinished = rules["deleted"], rules["unfinished"]
    assert deleted["noncurrent_version_expiration"][0]["noncurrent_days"] == 7
    (expiration,) = deleted["expiration"]
    assert expiration["expired_object_delete_marker"] is True
    assert not expiration["days"]
    assert unfinished["abort_incomplete_multipart_upload"][0]["days_after_initiation"] == 2
    assert not unfinished["expiration"]


def test_the_database_is_private_backed_up_and_hard_to_delete(state: State) -> None:
    (database,) = state.of("aws_db_instance")
    assert database["publicly_accessible"] is False
    assert database["deletion_protection"] is True
    assert database["skip_final_snapshot"] is False
    assert database["backup_retention_period"] >= 1
    (parameters,) = state.of("aws_db_parameter_group")
    values = {each["name"]: each["value"] for each in parameters["parameter"]}
    assert "log_min_duration_statement" not in values  # a statement's parameters are payloads
    assert values["rds.force_ssl"] == "1"
    assert int(values["idle_in_transaction_session_timeout"]) > 0


def test_only_the_database_and_aws_s_endpoints_are_listened_on(everything: State) -> None:
    ingress = everything.of("aws_vpc_security_group_ingress_rule")
    assert {(rule["from_port"], rule["to_port"]) for rule in ingress} == {(5432, 5432), (443, 443)}
    assert all(rule["cidr_ipv4"] in (None, "10.40.0.0/16") for rule in ingress)
    for subnet in everything.of("aws_subnet"):
        assert not subnet["map_public_ip_on_launch"]


# ------------------------------------------------------------------ the worker


def test_a_task_is_killed_only_after_its_grace(everything: State) -> None:
    (task,) = everything.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    given = {each["name"]: each["value"] for each in container["environment"]}
    assert given["PENSTOCK_GRACE"] == "100s"
    assert container["stopTimeout"] == 120  # Fargate's most
    assert "PENSTOCK_DATABASE_THREADS" not in given  # a function's few would hold a task up
    # That a file was scored is an event: tasks accept events, and so deliver them as well.
    assert given["PENSTOCK_SERVICES"] == "events,predictions"
    assert container["command"] == ["worker", "--app", "shop:app"]
    assert (task["cpu"], task["memory"]) == ("1024", "4096")  # it scores and trains


def test_a_task_may_write_nowhere_but_to_tmp_and_is_not_root(everything: State) -> None:
    (task,) = everything.of("aws_ecs_task_definition")
    (container,) = json.loads(task["container_definitions"])
    assert container["readonlyRootFilesystem"] is True
    assert container["user"] == "10001:10001"
    assert [mount["containerPath"] for mount in container["mountPoints"]] == ["/tmp"]
    (service,) = everything.of("aws_ecs_service")
    assert service["network_configuration"][0]["assign_public_ip"] is False
    assert service["deployment_circuit_breaker"][0] == {"enable": True, "rollback": True}
    secrets = {each["name"]: each["valueFrom"] for each in container["secrets"]}
    assert secrets["PGPASSWORD"].endswith(":password::")


def test_a_task_s_role_reads_the_secrets_it_is_given(everything: State) -> None:
    role = everything.at("module.worker[0].aws_iam_role_policy.execution")
    (read,) = [
        statement
        for statement in json.loads(role["policy"])["Statement"]
        if statement["Sid"] == "ReadSecrets"
    ]
    # By the whole ARN, whatever part of the value is asked for.
    assert len(read["Resource"]) == 3
    assert all(arn.count(":") == 6 for arn in read["Resource"])


def test_tasks_are_renewed_after_each_rotation_of_the_password(everything: State) -> None:
    (rotation,) = everything.of("aws_secretsmanager_secret_rotation")
    rules = rotation["rotation_rules"][0]
    renew = everything.at("module.worker[0].aws_scheduler_schedule.renew")
    assert rules["schedule_expression"] == "cron(0 4 1 * ? *)"
    assert rules["duration"] == "1h"
    assert renew["schedule_expression"] == "cron(15 5 1 * ? *)"
    target = renew["target"][0]
    assert target["arn"] == "arn:aws:scheduler:::aws-sdk:ecs:updateService"
    assert json.loads(target["input"]) == {
        "Cluster": "penstock-test-worker",
        "Service": "penstock-test-worker",
        "ForceNewDeployment": True,
    }


def test_tasks_follow_the_queue(everything: State) -> None:
    (target,) = everything.of("aws_appautoscaling_target")
    assert (target["min_capacity"], target["max_capacity"]) == (1, 4)
    steps = {
        each["name"]: each["step_scaling_policy_configuration"][0]["step_adjustment"]
        for each in everything.of("aws_appautoscaling_policy")
    }
    assert all(step["scaling_adjustment"] > 0 for step in steps["penstock-test-worker-out"])
    assert [step["scaling_adjustment"] for step in steps["penstock-test-worker-in"]] == [-1]
    for name in ("waiting", "idle"):
        alarm = everything.at(f"aws_cloudwatch_metric_alarm.{name}")
        asked = [query["metric"][0] for query in alarm["metric_query"] if query["metric"]]
        assert {metric["metric_name"] for metric in asked} == {"ApproximateNumberOfMessagesVisible"}
        assert {metric["dimensions"]["QueueName"] for metric in asked} == {
            "penstock-test-jobs",
            "penstock-test-predictions",
        }


# ------------------------------------------------------------------ alarms


def test_a_single_dead_letter_is_an_alarm(state: State) -> None:
    for service in ("events", "jobs"):
        alarm = state.at(f'aws_cloudwatch_metric_alarm.dead_letters["{service}"]')
        assert alarm["dimensions"] == {"QueueName": f"penstock-test-{service}-dlq"}
        shape = {
            name: alarm[name] for name in ("statistic", "period", "evaluation_periods", "threshold")
        }
        assert shape == {"statistic": "Sum", "period": 300, "evaluation_periods": 1, "threshold": 1}
        assert alarm["comparison_operator"] == "GreaterThanOrEqualToThreshold"
        assert alarm["treat_missing_data"] == "notBreaching"


def test_alarms_tell_somebody_also_when_they_are_over(state: State) -> None:
    (topic,) = state.of("aws_sns_topic")
    alarms = [
        each["values"]
        for each in state.all
        if each["type"] == "aws_cloudwatch_metric_alarm"
        and ".module.alarms." in f".{each['address']}"
    ]
    assert len(alarms) > 10
    for alarm in alarms:
        assert alarm["alarm_actions"] == alarm["ok_actions"] == [topic["arn"]]
        (page,) = re.findall(r"docs/how-to/[a-z0-9-]+\.md", alarm["alarm_description"])
        assert (SOURCE.parents[1] / page).exists(), page
    (told,) = state.of("aws_sns_topic_subscription")
    assert (told["protocol"], told["endpoint"]) == ("email", "ops@example.com")


def test_work_that_waits_half_an_hour_and_a_still_scheduler_are_alarms(state: State) -> None:
    late = state.at('aws_cloudwatch_metric_alarm.oldest_due["delivery"]')
    assert (late["metric_name"], late["threshold"]) == ("OldestDueAge", 1800)
    still = state.at("aws_cloudwatch_metric_alarm.no_heartbeat")
    assert still["dimensions"] == {"FunctionName": "penstock-test-sweeper"}
    assert still["treat_missing_data"] == "breaching"
    late_kinds = [each for each in state.all if ".oldest_due[" in each["address"]]
    open_kinds = [each for each in state.all if ".lanes_open[" in each["address"]]
    assert len(late_kinds) == len(open_kinds) >= 4
    dead = state.at('aws_cloudwatch_metric_alarm.dead_rows["delivery"]')
    assert {query["expression"] for query in dead["metric_query"]} >= {"DIFF(dead)"}


def test_failing_functions_and_missing_tasks_are_alarms(everything: State) -> None:
    watched = {
        each["values"]["dimensions"]["FunctionName"]
        for each in everything.all
        if ".function_errors[" in each["address"]
    }
    assert watched == {each["function_name"] for each in everything.of("aws_lambda_function")}
    none = everything.at("aws_cloudwatch_metric_alarm.no_task[0]")
    assert (none["statistic"], none["threshold"]) == ("SampleCount", 1)
    assert none["treat_missing_data"] == "breaching"


def test_the_logs_are_asked_for_success_and_duration(everything: State) -> None:
    asked = everything.of("aws_cloudwatch_query_definition")
    by_name = {each["name"].partition("/")[2]: each for each in asked}
    success = by_name["deliveries by the hour"]["query_string"]
    assert "bin(1h)" in success
    assert {"DeliverySuccess", "DeliveryFailure"} <= set(re.findall(r"\w+", success))
    assert "avg(@duration)" in by_name["duration of invocations"]["query_string"]
    groups = {each["name"] for each in everything.of("aws_cloudwatch_log_group")}
    for each in asked:
        assert set(each["log_group_names"]) <= groups
        assert "/ecs/penstock-test-worker" in each["log_group_names"]


def test_as_many_alarms_as_the_page_on_cost_counts(events: State, everything: State) -> None:
    def paid_for(state: State) -> int:
        """AWS asks for each metric that an alarm looks at."""
        return sum(
            max(1, sum(bool(query["metric"]) for query in alarm["metric_query"]))
            for alarm in state.of("aws_cloudwatch_metric_alarm")
        )

    page = (SOURCE.parents[1] / "docs" / "cost.md").read_text()
    staging, _, tracking, predictions, tasks = map(int, re.findall(r"0\.10 × (\d+) =", page))
    assert paid_for(events) == staging
    assert paid_for(everything) == staging + tracking + predictions + tasks


def own_metrics(state: State) -> Iterator[tuple[str, set[str]]]:
    """Penstock's metrics in alarms and on the dashboard, each with the names of its dimensions."""
    for alarm in state.of("aws_cloudwatch_metric_alarm"):
        asked = [alarm, *(query["metric"][0] for query in alarm["metric_query"] if query["metric"])]
        for metric in asked:
            if metric["namespace"] == NAMESPACE:
                yield metric["metric_name"], set(metric["dimensions"])
    (dashboard,) = state.of("aws_cloudwatch_dashboard")
    for widget in json.loads(dashboard["dashboard_body"])["widgets"]:
        for line in widget["properties"]["metrics"]:
            if line[0] == NAMESPACE:
                named = [part for part in line[2:] if isinstance(part, str)]
                yield line[1], set(named[::2])
            elif isinstance(line[0], dict):
                searched = rf"""SEARCH\('\{{"{NAMESPACE}",(\w+)\}} MetricName="(\w+)"'"""
                for dimension, metric in re.findall(searched, line[0].get("expression", "")):
                    yield metric, {dimension}


def test_metrics_are_sent_where_alarms_look_for_them(everything: State) -> None:
    for function in everything.of("aws_lambda_function"):
        given = function["environment"][0]["variables"]
        if function["function_name"] != "penstock-test-migrate":
            assert (given["PENSTOCK_METRICS"], given["PENSTOCK_METRICS_NAMESPACE"]) == (
                "emf",
                NAMESPACE,
            )


def test_alarms_and_widgets_look_at_metrics_that_are_emitted(everything: State) -> None:
    emitted = {
        metric.cloudwatch: set(metric.dimensions)
        for metric in telemetry.metrics_declared().values()
        if metric.cloudwatch
    }
    asked = list(own_metrics(everything))
    assert {name for name, _ in asked} >= {
        *("DeadRows", "OldestDueAge", "LanesOpen", "DueRows", "JobDuration", "RowsScored"),
        *("DeliverySuccess", "DeliveryFailure", "DeliveryLatency"),
    }
    for name, dimensions in asked:
        assert dimensions == emitted[name], name


# ------------------------------------------------------------------ the code itself


def test_values_that_cannot_work_are_refused(
    thoroughly: None, stack: tuple[Path, dict[str, str]]
) -> None:
    lines = lines_of(*stack, "refused")
    (summary,) = [line["test_summary"] for line in lines if line["type"] == "test_summary"]
    assert summary["passed"] >= 11
    assert summary["failed"] == summary["errored"] == summary["skipped"] == 0


def test_the_environments_differ_in_values_alone() -> None:
    folders = [SOURCE / "environments" / name for name in ("staging", "production")]
    for name in ("variables.tf", "outputs.tf"):
        first, second = (folder.joinpath(name).read_text() for folder in folders)
        assert first == second
    production = (folders[1] / "main.tf").read_text()
    assert "multi_az              = true" in production
    assert "nat_gateways = 2" in production


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_environments_are_valid(thoroughly: None, tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path) / "environments" / name
    variables = initialized(folder, tmp_path)
    done = run(folder, variables, "validate", "-json")
    assert json.loads(done.stdout)["diagnostics"] == []


def test_the_code_is_formatted() -> None:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-diff", str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
