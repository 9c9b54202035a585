# What wakes somebody up. Each alarm's description names the page of docs/how-to that helps.

locals {
  actions = [aws_sns_topic.this.arn]
}

resource "aws_sns_topic" "this" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.kms_key_arn
}

resource "aws_sns_topic_policy" "this" {
  arn = aws_sns_topic.this.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Alarms"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.this.arn
      Condition = { StringEquals = { "aws:SourceAccount" = var.aws.account_id } }
    }]
  })
}

# Each address has to confirm the e-mail that AWS sends it.
resource "aws_sns_topic_subscription" "email" {
  for_each  = var.emails
  topic_arn = aws_sns_topic.this.arn
  protocol  = "email"
  endpoint  = each.key
}

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  for_each            = var.dead_letter_queues
  alarm_name          = "${var.name}-${each.key}-dead-letters"
  alarm_description   = "Wake-ups of ${each.key} could not be worked on at all: docs/how-to/aws-dead-letters.md"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = each.value }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

resource "aws_cloudwatch_metric_alarm" "function_errors" {
  for_each            = var.functions
  alarm_name          = "${var.name}-${each.key}-errors"
  alarm_description   = "${each.value} fails or cannot start: docs/how-to/aws-worker-not-starting.md"
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = each.value }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 2
  datapoints_to_alarm = 2
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

# The sweeper is the heart: without it, lost wakes are found by nobody.
resource "aws_cloudwatch_metric_alarm" "no_heartbeat" {
  alarm_name          = "${var.name}-no-heartbeat"
  alarm_description   = "The sweeper was not called for 10 minutes: docs/how-to/aws-worker-not-processing.md"
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = var.functions["sweeper"] }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 2
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

# Each task sends one figure a minute, so how many figures there are is how many tasks there are.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/cloudwatch-metrics.html
resource "aws_cloudwatch_metric_alarm" "no_task" {
  count               = try(var.worker.always, false) ? 1 : 0
  alarm_name          = "${var.name}-no-task"
  alarm_description   = "No task of ${var.worker.service} has run for 10 minutes: docs/how-to/aws-worker-not-starting.md"
  namespace           = "AWS/ECS"
  metric_name         = "CPUUtilization"
  dimensions          = { ClusterName = var.worker.cluster, ServiceName = var.worker.service }
  statistic           = "SampleCount"
  period              = 300
  evaluation_periods  = 2
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

resource "aws_cloudwatch_metric_alarm" "oldest_due" {
  for_each            = var.kinds
  alarm_name          = "${var.name}-${each.key}-late"
  alarm_description   = "Work of the kind ${each.key} has been owed for half an hour: docs/how-to/aws-worker-not-processing.md"
  namespace           = var.metrics.namespace
  metric_name         = "OldestDueAge"
  dimensions          = merge(var.metrics.dimensions, { kind = each.key })
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 1800
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

resource "aws_cloudwatch_metric_alarm" "dead_rows" {
  for_each            = var.kinds
  alarm_name          = "${var.name}-${each.key}-dead"
  alarm_description   = "More work of the kind ${each.key} was given up: docs/how-to/aws-dead-work.md"
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions

  metric_query {
    id          = "growth"
    expression  = "DIFF(dead)"
    label       = "More dead rows than before"
    return_data = true
  }
  metric_query {
    id = "dead"
    metric {
      namespace   = var.metrics.namespace
      metric_name = "DeadRows"
      dimensions  = merge(var.metrics.dimensions, { kind = each.key })
      stat        = "Maximum"
      period      = 300
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "lanes_open" {
  for_each            = var.kinds
  alarm_name          = "${var.name}-${each.key}-circuit-open"
  alarm_description   = "A peer has been in trouble for half an hour; its work waits: docs/how-to/aws-circuit-stuck.md"
  namespace           = var.metrics.namespace
  metric_name         = "LanesOpen"
  dimensions          = merge(var.metrics.dimensions, { kind = each.key })
  statistic           = "Minimum"
  period              = 300
  evaluation_periods  = 6
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

resource "aws_cloudwatch_metric_alarm" "api_errors" {
  alarm_name          = "${var.name}-api-5xx"
  alarm_description   = "The API answers with 5xx: docs/how-to/aws-first-30-minutes.md"
  namespace           = "AWS/ApiGateway"
  metric_name         = "5xx"
  dimensions          = { ApiId = var.api_id }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 5
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}

resource "aws_cloudwatch_metric_alarm" "database_storage" {
  alarm_name          = "${var.name}-database-storage"
  alarm_description   = "Less than 2 GiB are free; when none are, everything stops: docs/how-to/aws-first-30-minutes.md"
  namespace           = "AWS/RDS"
  metric_name         = "FreeStorageSpace"
  dimensions          = { DBInstanceIdentifier = var.database_identifier }
  statistic           = "Minimum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 2 * 1024 * 1024 * 1024
  treat_missing_data  = "missing"
  alarm_actions       = local.actions
  ok_actions          = local.actions
}
