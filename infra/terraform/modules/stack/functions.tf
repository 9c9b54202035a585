# The functions: what each may do, and what it is told.

locals {
  # Every process, whatever it runs.
  environment = merge(
    {
      PENSTOCK_WAKEUPS      = "sqs"
      PENSTOCK_DATABASE_URL = module.database.url
      PENSTOCK_LOG_FORMAT   = "json"
      PENSTOCK_METRICS      = "emf"
      # Of this environment's own: alarms of the one are not to hear of the other's work.
      PENSTOCK_METRICS_NAMESPACE = local.metrics_namespace
      # Nothing listens there; but a process on loopback, the default, may push to loopback, and in a
      # function that is Lambda's own API.
      PENSTOCK_HOST      = "0.0.0.0"
      PENSTOCK_LOG_LEVEL = var.log_level
    },
    { for objects in module.objects : "PENSTOCK_OBJECTS" => objects.url },
    { for service, queue in module.queue : "PENSTOCK_SQS_${upper(service)}_QUEUE_URL" => queue.url },
    var.settings,
  )

  # The values of these stay in Secrets Manager; a function reads them when it starts.
  function_secrets = {
    PENSTOCK_DATABASE_PASSWORD_SECRET_ARN = module.database.password_secret_arn
    PENSTOCK_SECRET_KEY_SECRET_ARN        = var.secret_key_arn
  }
  function_environment = merge(local.environment, local.function_secrets, {
    PENSTOCK_DATABASE_THREADS = tostring(var.database.connections_per_function)
    # All but predictions, which a package does not hold.
    PENSTOCK_SERVICES = join(",", sort(tolist(setsubtract(var.services, ["predictions"]))))
  })

  # The API answers for every service, and the sweeper looks after the rows of every service. With
  # predictions among them, both run from the image of tasks.
  whole_environment = merge(local.function_environment, {
    PENSTOCK_SERVICES = join(",", sort(tolist(var.services)))
  })
  whole_image = local.predictions ? try(var.worker.image, null) : null

  may = {
    read_password = {
      Sid      = "ReadPassword"
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = module.database.password_secret_arn
    }
    read_secrets = {
      Sid      = "ReadSecrets"
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = [module.database.password_secret_arn, var.secret_key_arn]
    }
    decrypt = {
      Sid      = "Decrypt"
      Effect   = "Allow"
      Action   = "kms:Decrypt"
      Resource = module.key.arn
    }
    wake = {
      Sid      = "Wake"
      Effect   = "Allow"
      Action   = "sqs:SendMessage"
      Resource = [for queue in module.queue : queue.arn]
    }
    count_dead_letters = {
      Sid      = "CountDeadLetters"
      Effect   = "Allow"
      Action   = "sqs:GetQueueAttributes"
      Resource = flatten([for queue in module.queue : [queue.arn, queue.dead_letter_arn]])
    }
  }

  # What deliveries need beside HTTPS, as far as it is asked for.
  destinations = concat(
    length(var.mail_identity_arns) == 0 ? [] : [{
      Sid = "SendMail", Effect = "Allow", Action = ["ses:SendEmail", "ses:SendRawEmail"], Resource = var.mail_identity_arns
    }],
    !var.send_texts ? [] : [{
      # A phone number has no ARN; topics have, and are left out.
      Sid = "SendTexts", Effect = "Allow", Action = "sns:Publish", NotResource = "arn:${local.aws.partition}:sns:*:*:*"
    }],
    length(var.destination_queue_arns) == 0 ? [] : [{
      Sid = "SendToQueues", Effect = "Allow", Action = "sqs:SendMessage", Resource = var.destination_queue_arns
    }],
  )

  keep_objects = flatten(module.objects[*].permissions)

  common = {
    aws                = local.aws
    architecture       = var.architecture
    subnet_ids         = module.network.subnet_ids
    log_retention_days = var.log_retention_days
    kms_key_arn        = module.key.arn
  }
}

module "migrate" {
  source             = "../function"
  name               = "${var.name_prefix}-migrate"
  description        = "Brings the database's tables up to date, once for each release"
  aws                = local.common.aws
  architecture       = local.common.architecture
  subnet_ids         = local.common.subnet_ids
  log_retention_days = local.common.log_retention_days
  kms_key_arn        = local.common.kms_key_arn
  security_group_id  = module.network.inside_security_group_id
  handler            = "penstock.aws.lambda_handlers.migrate"
  package            = var.packages.migrate
  memory_mb          = 512
  timeout_seconds    = 900
  environment = {
    PENSTOCK_DATABASE_URL                 = module.database.url
    PENSTOCK_DATABASE_PASSWORD_SECRET_ARN = module.database.password_secret_arn
    PENSTOCK_LOG_FORMAT                   = "json"
  }
  permissions = [local.may.read_password, local.may.decrypt]
}

# Before any function gets the new code, and only if there is new code. Tables are changed in such
# a way that the code before can still use them, so a rollback leaves them (run_migrations = false).
resource "aws_lambda_invocation" "migrate" {
  count         = var.run_migrations ? 1 : 0
  function_name = module.migrate.name
  input         = jsonencode({})
  triggers      = { package = module.migrate.package_hash }
  depends_on    = [module.database, module.network] # it needs the way to Secrets Manager
}

module "api_function" {
  source               = "../function"
  name                 = "${var.name_prefix}-api"
  description          = "Answers the HTTP API"
  aws                  = local.common.aws
  architecture         = local.common.architecture
  subnet_ids           = local.common.subnet_ids
  log_retention_days   = local.common.log_retention_days
  kms_key_arn          = local.common.kms_key_arn
  security_group_id    = module.network.inside_security_group_id
  handler              = "penstock.aws.lambda_handlers.api"
  package              = local.whole_image == null ? var.packages.api : null
  image                = local.whole_image
  memory_mb            = coalesce(var.api.memory_mb, local.predictions ? 1024 : 512)
  timeout_seconds      = 30
  reserved_concurrency = var.api.reserved_concurrency
  environment          = local.whole_environment
  permissions          = concat([local.may.read_secrets, local.may.decrypt, local.may.wake], local.keep_objects)
  depends_on           = [aws_lambda_invocation.migrate, module.registry]
}

module "api" {
  source              = "../api"
  name                = var.name_prefix
  function            = { name = module.api_function.name, invoke_arn = module.api_function.invoke_arn }
  requests_per_second = var.api.requests_per_second
  burst               = var.api.burst
  domain              = var.api.domain
  log_retention_days  = var.log_retention_days
  kms_key_arn         = module.key.arn
}

module "events_worker" {
  source               = "../lambda_worker"
  count                = contains(var.services, "events") ? 1 : 0
  name                 = "${var.name_prefix}-events-worker"
  description          = "Delivers events"
  aws                  = local.common.aws
  architecture         = local.common.architecture
  subnet_ids           = local.common.subnet_ids
  log_retention_days   = local.common.log_retention_days
  kms_key_arn          = local.common.kms_key_arn
  security_group_id    = module.network.outbound_security_group_id
  handler              = "penstock.aws.lambda_handlers.events_worker"
  package              = var.packages.worker
  memory_mb            = 512
  timeout_seconds      = local.worker_timeout
  reserved_concurrency = null
  environment          = local.function_environment
  permissions          = concat([local.may.read_secrets, local.may.decrypt, local.may.wake], local.destinations)
  queue                = { arn = module.queue["events"].arn, visibility_timeout_seconds = 6 * local.worker_timeout }
  batch_size           = 10
  maximum_concurrency  = var.worker_concurrency
  depends_on           = [aws_lambda_invocation.migrate]
}

module "tracking_worker" {
  source               = "../lambda_worker"
  count                = contains(var.services, "tracking") ? 1 : 0
  name                 = "${var.name_prefix}-tracking-worker"
  description          = "Asks carriers where parcels are"
  aws                  = local.common.aws
  architecture         = local.common.architecture
  subnet_ids           = local.common.subnet_ids
  log_retention_days   = local.common.log_retention_days
  kms_key_arn          = local.common.kms_key_arn
  security_group_id    = module.network.outbound_security_group_id
  handler              = "penstock.aws.lambda_handlers.tracking_worker"
  package              = var.packages.worker
  memory_mb            = 512
  timeout_seconds      = local.worker_timeout
  reserved_concurrency = null
  environment          = local.function_environment
  permissions          = [local.may.read_secrets, local.may.decrypt, local.may.wake]
  queue                = { arn = module.queue["tracking"].arn, visibility_timeout_seconds = 6 * local.worker_timeout }
  batch_size           = 10
  maximum_concurrency  = var.worker_concurrency
  depends_on           = [aws_lambda_invocation.migrate]
}

module "dispatcher" {
  source             = "../function"
  count              = contains(var.services, "tracking") ? 1 : 0
  name               = "${var.name_prefix}-dispatcher"
  description        = "Wakes the lanes of shipments that are due"
  aws                = local.common.aws
  architecture       = local.common.architecture
  subnet_ids         = local.common.subnet_ids
  log_retention_days = local.common.log_retention_days
  kms_key_arn        = local.common.kms_key_arn
  security_group_id  = module.network.inside_security_group_id
  handler            = "penstock.aws.lambda_handlers.dispatcher"
  package            = var.packages.worker
  memory_mb          = 256
  timeout_seconds    = 60
  environment        = local.function_environment
  permissions        = [local.may.read_secrets, local.may.decrypt, local.may.wake]
  depends_on         = [aws_lambda_invocation.migrate]
}

module "dispatch" {
  source      = "../schedule"
  count       = contains(var.services, "tracking") ? 1 : 0
  name        = "${var.name_prefix}-dispatch"
  description = "Hourly: shipments that are due"
  aws         = local.aws
  expression  = "rate(1 hour)"
  function    = { name = module.dispatcher[0].name, arn = module.dispatcher[0].arn }
  kms_key_arn = module.key.arn
}

module "sweeper" {
  source             = "../function"
  name               = "${var.name_prefix}-sweeper"
  description        = "Returns lost leases, wakes lanes that have due rows, deletes what is past its time"
  aws                = local.common.aws
  architecture       = local.common.architecture
  subnet_ids         = local.common.subnet_ids
  log_retention_days = local.common.log_retention_days
  kms_key_arn        = local.common.kms_key_arn
  security_group_id  = module.network.inside_security_group_id
  handler            = "penstock.aws.lambda_handlers.sweeper"
  package            = local.whole_image == null ? var.packages.worker : null
  image              = local.whole_image
  memory_mb          = 512
  timeout_seconds    = 55 # before the next turn
  environment        = local.whole_environment
  permissions        = concat([local.may.read_secrets, local.may.decrypt, local.may.wake, local.may.count_dead_letters], local.keep_objects)
  depends_on         = [aws_lambda_invocation.migrate, module.registry]
}

module "sweep" {
  source      = "../schedule"
  name        = "${var.name_prefix}-sweep"
  description = "Each minute: lost leases, lost wakes"
  aws         = local.aws
  expression  = "rate(1 minute)"
  function    = { name = module.sweeper.name, arn = module.sweeper.arn }
  kms_key_arn = module.key.arn
}
