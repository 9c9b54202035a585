# Environments with less in them.

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

run "events" {
  assert {
    condition     = keys(output.queues) == ["events", "jobs"]
    error_message = "Events and jobs each have a queue."
  }
  assert {
    condition     = output.url == "https://mocked.execute-api.eu-west-1.amazonaws.com"
    error_message = "Without a domain of its own the API is where API Gateway puts it."
  }
  assert {
    condition     = output.worker == null && output.objects == null
    error_message = "Without an image no task runs, and without predictions there is no bucket."
  }
  assert {
    condition     = length(output.egress_addresses) == 1
    error_message = "One NAT gateway, one address."
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
