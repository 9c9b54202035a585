# What must not come about: each run ends before anything would be made.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name_prefix    = "penstock-test"
  secret_key_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:penstock-test/secret-key-AbCdEf"
  alarm_emails   = ["ops@example.com"]
  network        = { zones = ["eu-west-1a", "eu-west-1b"] }
  # Any file will do: nothing is uploaded.
  packages = { api = "versions.tf", worker = "versions.tf", migrate = "versions.tf" }
  database = {
    instance_class        = "db.t4g.micro"
    multi_az              = false
    backup_retention_days = 3
  }
}

run "a_service_that_does_not_exist" {
  command = plan
  variables { services = ["events", "mining"] }
  expect_failures = [var.services]
}

run "predictions_without_tasks" {
  command = plan
  variables { services = ["predictions"] }
  expect_failures = [output.worker]
}

run "a_secret_among_the_settings" {
  command = plan
  variables { settings = { PENSTOCK_SMTP_URL = "smtp://user:password@mail.example.com" } }
  expect_failures = [var.settings]
}

run "a_setting_of_something_else" {
  command = plan
  variables { settings = { LOG_LEVEL = "debug" } }
  expect_failures = [var.settings]
}

run "a_secret_key_instead_of_its_arn" {
  command = plan
  variables { secret_key_arn = "0123456789abcdef0123456789abcdef" }
  expect_failures = [var.secret_key_arn]
}

run "a_name_that_is_too_long" {
  command = plan
  variables { name_prefix = "penstock-production-of-the-whole-company" }
  expect_failures = [var.name_prefix]
}

# ------------------------------------------------------------------ rules between values

run "a_queue_that_outlives_its_dead_letters" {
  command = plan
  module { source = "../queue" }
  variables {
    name                          = "test"
    visibility_timeout_seconds    = 360
    retention_seconds             = 604800
    dead_letter_retention_seconds = 604800
  }
  expect_failures = [aws_sqs_queue.this]
}

run "a_visibility_that_is_too_short" {
  command = plan
  module { source = "../lambda_worker" }
  variables {
    name               = "test"
    description        = "test"
    aws                = { account_id = "123456789012", region = "eu-west-1", partition = "aws" }
    handler            = "penstock.aws.lambda_handlers.events_worker"
    package            = "versions.tf"
    architecture       = "x86_64"
    memory_mb          = 512
    timeout_seconds    = 60
    environment        = {}
    permissions        = []
    subnet_ids         = ["subnet-1"]
    security_group_id  = "sg-1"
    log_retention_days = 14
    kms_key_arn        = "arn:aws:kms:eu-west-1:123456789012:key/1"
    queue              = { arn = "arn:aws:sqs:eu-west-1:123456789012:test", visibility_timeout_seconds = 359 }
  }
  expect_failures = [aws_lambda_event_source_mapping.queue]
}

run "an_image_by_tag" {
  command = plan
  module { source = "../ecs_worker" }
  variables {
    name               = "test"
    aws                = { account_id = "123456789012", region = "eu-west-1", partition = "aws" }
    image              = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/worker:latest"
    app                = "shop:app"
    repository_arn     = "arn:aws:ecr:eu-west-1:123456789012:repository/worker"
    architecture       = "x86_64"
    cpu                = 512
    memory_mb          = 1024
    min_tasks          = 1
    max_tasks          = 2
    environment        = {}
    secrets            = {}
    renew_at           = "cron(0 0 1 * ? *)"
    permissions        = []
    queue_names        = ["test"]
    subnet_ids         = ["subnet-1"]
    security_group_id  = "sg-1"
    log_retention_days = 7
    kms_key_arn        = "arn:aws:kms:eu-west-1:123456789012:key/1"
  }
  expect_failures = [var.image]
}

run "no_way_out_and_no_way_to_aws" {
  command = plan
  module { source = "../network" }
  variables {
    name         = "test"
    aws          = { account_id = "123456789012", region = "eu-west-1", partition = "aws" }
    zones        = ["eu-west-1a", "eu-west-1b"]
    nat_gateways = 0
    kms_key_arn  = "arn:aws:kms:eu-west-1:123456789012:key/1"
  }
  expect_failures = [var.interface_endpoints]
}

run "a_package_and_an_image" {
  command = plan
  module { source = "../function" }
  variables {
    name               = "test"
    description        = "test"
    aws                = { account_id = "123456789012", region = "eu-west-1", partition = "aws" }
    handler            = "penstock.aws.lambda_handlers.api"
    package            = "versions.tf"
    image              = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/worker@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    architecture       = "x86_64"
    memory_mb          = 512
    timeout_seconds    = 60
    environment        = {}
    permissions        = []
    subnet_ids         = ["subnet-1"]
    security_group_id  = "sg-1"
    log_retention_days = 14
    kms_key_arn        = "arn:aws:kms:eu-west-1:123456789012:key/1"
  }
  expect_failures = [aws_lambda_function.this]
}
