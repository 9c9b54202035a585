# Saved questions to the logs. Deliveries and their results are in the metric lines.

resource "aws_cloudwatch_query_definition" "success_rate" {
  name            = "${var.name}/deliveries by the hour"
  log_group_names = var.log_group_names
  query_string    = <<-QUERY
    filter ispresent(DeliverySuccess) or ispresent(DeliveryFailure)
    | stats sum(DeliverySuccess) as delivered, sum(DeliveryFailure) as given_up,
        100 * sum(DeliverySuccess) / (sum(DeliverySuccess) + sum(DeliveryFailure)) as success_rate
        by bin(1h)
  QUERY
}

resource "aws_cloudwatch_query_definition" "trouble" {
  name            = "${var.name}/warnings and errors"
  log_group_names = var.log_group_names
  query_string    = <<-QUERY
    filter level in ["warning", "error", "critical"] or @message like /Task timed out|Runtime\./
    | stats count(*) as times, latest(@timestamp) as last by event, error
    | sort times desc
  QUERY
}

resource "aws_cloudwatch_query_definition" "duration" {
  name            = "${var.name}/duration of invocations"
  log_group_names = var.log_group_names
  query_string    = <<-QUERY
    filter @type = "REPORT"
    | stats count(*) as invocations, avg(@duration) as mean_ms, pct(@duration, 95) as p95_ms,
        avg(@initDuration) as cold_start_ms, max(@maxMemoryUsed) / 1000000 as memory_mb
        by @log, bin(1h)
  QUERY
}
