# The team's own jobs, in an image that holds them. Without one, no task runs.

locals {
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
  cpu                = var.worker.cpu
  memory_mb          = var.worker.memory_mb
  min_tasks          = var.worker.min_tasks
  max_tasks          = var.worker.max_tasks
  renew_at           = local.renew_at
  queue              = { name = module.queue["jobs"].name }
  subnet_ids         = module.network.subnet_ids
  security_group_id  = module.network.outbound_security_group_id
  log_retention_days = var.worker.log_retention_days
  kms_key_arn        = module.key.arn
  environment        = merge(local.environment, { PENSTOCK_SERVICES = "" }, var.worker.environment)

  # libpq takes the password from PGPASSWORD when the URL has none.
  secrets = merge(
    {
      PGPASSWORD          = "${module.database.password_secret_arn}:password::"
      PENSTOCK_SECRET_KEY = var.secret_key_arn
    },
    var.worker.secrets,
  )

  permissions = [
    {
      Sid      = "Receive"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
      Resource = module.queue["jobs"].arn
    },
    local.may.wake,
  ]

  depends_on = [aws_lambda_invocation.migrate]
}
