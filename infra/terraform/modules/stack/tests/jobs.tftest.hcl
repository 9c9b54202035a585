# An environment for jobs and nothing else.

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

run "jobs_alone" {
  variables {
    services = []
    worker = {
      image     = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/penstock-test-worker@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      min_tasks = 0
    }
  }
  assert {
    condition     = keys(output.queues) == ["jobs"]
    error_message = "Jobs have a queue, and nothing else."
  }
}
