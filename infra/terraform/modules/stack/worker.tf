# Predictions, and the team's own jobs in an image that holds them. Without one, no task runs.

locals {
  # That a file was scored is told by an event, and events are accepted where their service runs: so
  # tasks deliver as well, beside the function.
  task_services = local.predictions ? setintersection(var.services, ["events", "predictions"]) : toset([])
  task_queues   = setunion(["jobs"], local.task_services)

  # On the first of each month, in UTC: a new password within the hour, then tasks that read it.
  # Functions read it by themselves when the old one is refused.
  rotate_at = "cron(0 4 1 * ? *)"
  renew_at  = "cron(15 5 1 * ? *)"
}

resource "aws_secretsmanager_secret_rotation" "password" {
  count              = var.worker == null ? 0 : 1
  secret_id          = module.database.password_secret_arn
  rotate_immediately = false
  rotation_rules {
    schedule_expression = local.rotate_at
    duration            = "1h"
  }
}

module "worker" {
  source             = "../ecs_worker"
  count              = var.worker == null ? 0 : 1
  name               = "${var.name_prefix}-worker"
  aws                = local.aws
  image              = var.worker.image
  app                = var.worker.app
  repository_arn     = module.registry.arn
  architecture       = var.architecture
  cpu                = coalesce(var.worker.cpu, local.predictions ? 1024 : 512)
  memory_mb          = coalesce(var.worker.memory_mb, local.predictions ? 4096 : 1024)
  min_tasks          = var.worker.min_tasks
  max_tasks          = var.worker.max_tasks
  renew_at           = local.renew_at
  queue_names        = [for service in sort(tolist(setsubtract(local.task_queues, ["events"]))) : module.queue[service].name]
  subnet_ids         = module.network.subnet_ids
  security_group_id  = module.network.outbound_security_group_id
  log_retention_days = var.worker.log_retention_days
  kms_key_arn        = module.key.arn
  environment        = merge(local.environment, { PENSTOCK_SERVICES = join(",", sort(tolist(local.task_services))) }, var.worker.environment)

  # libpq takes the password from PGPASSWORD when the URL has none.
  secrets = merge(
    {
      PGPASSWORD          = "${module.database.password_secret_arn}:password::"
      PENSTOCK_SECRET_KEY = var.secret_key_arn
    },
    var.worker.secrets,
  )

  permissions = concat(
    [
      {
        Sid      = "Receive"
        Effect   = "Allow"
        Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
        Resource = [for service in sort(tolist(local.task_queues)) : module.queue[service].arn]
      },
      local.may.wake,
      local.may.count_dead_letters,
    ],
    local.keep_objects,
    [for statement in local.destinations : statement if contains(local.task_services, "events")],
  )

  depends_on = [aws_lambda_invocation.migrate]
}
