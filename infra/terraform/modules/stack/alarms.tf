locals {
  metrics_namespace = "Penstock/${var.name_prefix}"

  functions = merge(
    {
      api     = module.api_function.name
      migrate = module.migrate.name
      sweeper = module.sweeper.name
    },
    { for worker in module.events_worker : "events" => worker.name },
    { for worker in module.tracking_worker : "tracking" => worker.name },
    { for function in module.dispatcher : "dispatcher" => function.name },
  )
}

module "alarms" {
  source              = "../alarms"
  name                = var.name_prefix
  aws                 = local.aws
  emails              = var.alarm_emails
  metrics             = { namespace = local.metrics_namespace, dimensions = {} }
  kinds               = toset(flatten([for service in local.services : local.kinds[service]]))
  queues              = { for service, queue in module.queue : service => queue.name }
  dead_letter_queues  = { for service, queue in module.queue : service => queue.dead_letter_name }
  functions           = local.functions
  worker              = one([for worker in module.worker : { cluster = worker.cluster, service = worker.service, always = var.worker.min_tasks > 0 }])
  api_id              = module.api.id
  database_identifier = module.database.identifier
  log_group_names     = concat([for name in values(local.functions) : "/aws/lambda/${name}"], module.worker[*].log_group_name)
  kms_key_arn         = module.key.arn
}
