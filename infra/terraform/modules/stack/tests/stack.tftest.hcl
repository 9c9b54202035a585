# The whole of an environment, with a provider that only pretends: nothing is called, no account is
# needed. Run `terraform init -backend=false && terraform test` in modules/stack; `make test` does
# so where Terraform and its AWS provider are installed, and looks at every resource besides.

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

run "everything" {
  variables {
    services = ["events", "tracking", "predictions"]
    worker = {
      image   = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/penstock-test-worker@sha256:0000000000000000000000000000000000000000000000000000000000000000"
      app     = "shop:app"
      secrets = { SHOP_TOKEN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-token-AbCdEf" }
    }
    network                = { zones = ["eu-west-1a", "eu-west-1b"], nat_gateways = 2, interface_endpoints = ["sqs", "secretsmanager"] }
    api                    = { domain = { name = "events.example.com", certificate_arn = "arn:aws:acm:eu-west-1:123456789012:certificate/1" } }
    mail_identity_arns     = ["arn:aws:ses:eu-west-1:123456789012:identity/example.com"]
    send_texts             = true
    destination_queue_arns = ["arn:aws:sqs:eu-west-1:123456789012:orders"]
    settings               = { PENSTOCK_MAIL_BY = "ses", PENSTOCK_MAIL_FROM = "penstock@example.com" }
  }
  assert {
    condition     = output.worker == { cluster = "penstock-test-worker", service = "penstock-test-worker" }
    error_message = "With an image, a service runs it."
  }
  assert {
    condition     = output.objects == "penstock-test-objects-123456789012-eu-west-1"
    error_message = "What is uploaded and scored has a bucket."
  }
  assert {
    condition     = output.url == "https://events.example.com"
    error_message = "With a domain of its own the API is there."
  }
  assert {
    condition     = length(output.egress_addresses) == 2
    error_message = "Two NAT gateways, two addresses."
  }
}
