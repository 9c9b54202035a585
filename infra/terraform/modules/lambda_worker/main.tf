# A function that a queue of wake-ups invokes.

module "function" {
  source               = "../function"
  name                 = var.name
  description          = var.description
  aws                  = var.aws
  handler              = var.handler
  package              = var.package
  architecture         = var.architecture
  memory_mb            = var.memory_mb
  timeout_seconds      = var.timeout_seconds
  reserved_concurrency = var.reserved_concurrency
  environment          = var.environment
  subnet_ids           = var.subnet_ids
  security_group_id    = var.security_group_id
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn

  permissions = concat(var.permissions, [{
    Sid      = "Receive"
    Effect   = "Allow"
    Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
    Resource = var.queue.arn
  }])
}

resource "aws_lambda_event_source_mapping" "queue" {
  event_source_arn                   = var.queue.arn
  function_name                      = module.function.arn
  batch_size                         = var.batch_size
  maximum_batching_window_in_seconds = 0 # a wake that waits is latency, and batches fill by themselves under load
  function_response_types            = ["ReportBatchItemFailures"]

  # Without it, invocations that are throttled use up receives and the queue ends in its
  # dead-letter queue.
  scaling_config {
    maximum_concurrency = var.maximum_concurrency
  }

  lifecycle {
    precondition {
      # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
      condition     = var.queue.visibility_timeout_seconds >= 6 * var.timeout_seconds
      error_message = "The queue's visibility timeout must be at least six times the function's timeout."
    }
  }
}
