# One page for the first look. Every metric here is one that AWS or Penstock emits:
# tests/infra/test_terraform.py compares those of Penstock with what the code declares.

locals {
  mine = [for name, value in var.metrics.dimensions : [name, value]]
  # CloudWatch wants dimensions as a flat list after namespace and name.
  own = flatten(local.mine)

  widgets = [
    {
      title   = "Messages waiting"
      metrics = [for key, queue in var.queues : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue, { label = key }]]
      stat    = "Maximum"
    },
    {
      title   = "Dead letters"
      metrics = [for key, queue in var.dead_letter_queues : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue, { label = key }]]
      stat    = "Maximum"
    },
    {
      title   = "Rows owed now"
      metrics = [for kind in sort(tolist(var.kinds)) : concat([var.metrics.namespace, "DueRows"], local.own, ["kind", kind, { label = kind }])]
      stat    = "Maximum"
    },
    {
      title   = "Owed for how long, seconds"
      metrics = [for kind in sort(tolist(var.kinds)) : concat([var.metrics.namespace, "OldestDueAge"], local.own, ["kind", kind, { label = kind }])]
      stat    = "Maximum"
    },
    {
      title = "Deliveries"
      metrics = [
        concat([var.metrics.namespace, "DeliverySuccess"], local.own, [{ label = "delivered", id = "good" }]),
        concat([var.metrics.namespace, "DeliveryRetry"], local.own, [{ label = "to be tried again", id = "again" }]),
        concat([var.metrics.namespace, "DeliveryFailure"], local.own, [{ label = "given up", id = "bad" }]),
      ]
      stat = "Sum"
    },
    {
      title = "Deliveries that went well, % of those that ended"
      metrics = [
        [{ expression = "100 * FILL(good, 0) / (FILL(good, 0) + FILL(bad, 0))", label = "success rate" }],
        concat([var.metrics.namespace, "DeliverySuccess"], local.own, [{ id = "good", visible = false }]),
        concat([var.metrics.namespace, "DeliveryFailure"], local.own, [{ id = "bad", visible = false }]),
      ]
      stat = "Sum"
    },
    {
      title   = "From acceptance to delivery, seconds"
      metrics = [for stat in ["p50", "p95", "p99"] : concat([var.metrics.namespace, "DeliveryLatency"], local.own, [{ stat = stat, label = stat }])]
      stat    = "p95"
    },
    {
      title   = "Given up, and lanes whose circuit is open"
      metrics = flatten([for kind in sort(tolist(var.kinds)) : [for name in ["DeadRows", "LanesOpen"] : { line = concat([var.metrics.namespace, name], local.own, ["kind", kind, { label = "${name} ${kind}" }]) }]])[*].line
      stat    = "Maximum"
    },
    {
      title   = "Functions: duration, ms"
      metrics = [for key, name in var.functions : ["AWS/Lambda", "Duration", "FunctionName", name, { label = key }]]
      stat    = "p95"
    },
    {
      title   = "Functions: errors"
      metrics = [for key, name in var.functions : ["AWS/Lambda", "Errors", "FunctionName", name, { label = key }]]
      stat    = "Sum"
    },
    {
      title   = "Functions: at once"
      metrics = [for key, name in var.functions : ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", name, { label = key }]]
      stat    = "Maximum"
    },
    {
      title = "API"
      metrics = [
        ["AWS/ApiGateway", "Count", "ApiId", var.api_id, { label = "requests", stat = "Sum" }],
        ["AWS/ApiGateway", "4xx", "ApiId", var.api_id, { label = "4xx", stat = "Sum" }],
        ["AWS/ApiGateway", "5xx", "ApiId", var.api_id, { label = "5xx", stat = "Sum" }],
        ["AWS/ApiGateway", "Latency", "ApiId", var.api_id, { label = "p95 ms", stat = "p95", yAxis = "right" }],
      ]
      stat = "Sum"
    },
    {
      title = "Database"
      metrics = [
        ["AWS/RDS", "CPUUtilization", "DBInstanceIdentifier", var.database_identifier, { label = "processor %" }],
        ["AWS/RDS", "DatabaseConnections", "DBInstanceIdentifier", var.database_identifier, { label = "connections" }],
        ["AWS/RDS", "FreeableMemory", "DBInstanceIdentifier", var.database_identifier, { label = "free memory", yAxis = "right" }],
      ]
      stat = "Average"
    },
  ]

  worker_widgets = flatten([for worker in var.worker[*] : [
    jsonencode({
      title = "Tasks: processor and memory, %"
      metrics = [
        ["AWS/ECS", "CPUUtilization", "ClusterName", worker.cluster, "ServiceName", worker.service, { label = "processor" }],
        ["AWS/ECS", "MemoryUtilization", "ClusterName", worker.cluster, "ServiceName", worker.service, { label = "memory" }],
      ]
      stat = "Average"
    }),
    jsonencode({
      # Names of jobs are the team's: the widget finds them by itself.
      title = "Jobs: how long they run, seconds"
      metrics = [[{
        expression = "SEARCH('{\"${var.metrics.namespace}\",${join(",", concat(sort(keys(var.metrics.dimensions)), ["job"]))}} MetricName=\"JobDuration\"', 'p95')"
        label      = ""
      }]]
      stat = "p95"
    }),
  ]])

  prediction_widgets = !contains(var.kinds, "prediction") ? [] : [jsonencode({
    title   = "Rows scored"
    metrics = [concat([var.metrics.namespace, "RowsScored"], local.own)]
    stat    = "Sum"
  })]

  # Terraform wants the elements of a list to be of one type; through JSON they need not be.
  shown = concat([for widget in local.widgets : jsonencode(widget)], local.worker_widgets, local.prediction_widgets)
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [for index, text in local.shown : {
      type   = "metric"
      width  = 8
      height = 6
      x      = (index % 3) * 8
      y      = floor(index / 3) * 6
      properties = {
        title   = jsondecode(text).title
        metrics = jsondecode(text).metrics
        stat    = jsondecode(text).stat
        period  = 60
        region  = var.aws.region
        view    = "timeSeries"
      }
    }]
  })
}
