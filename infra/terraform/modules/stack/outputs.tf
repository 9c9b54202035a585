output "url" {
  description = "Where the API is."
  value       = module.api.url
}

output "domain_target" {
  description = "What the CNAME of a domain of your own must point to."
  value       = module.api.domain_target
}

output "queues" {
  description = "URL and ARN of each queue and of its dead-letter queue, by service."
  value = { for service, queue in module.queue : service => {
    url             = queue.url
    arn             = queue.arn
    dead_letter_url = queue.dead_letter_url
    dead_letter_arn = queue.dead_letter_arn
  } }
}

output "functions" {
  description = "Names of the functions, by what they do."
  value       = local.functions
}

output "worker" {
  description = "Cluster and service of the tasks."
  value       = one([for worker in module.worker : { cluster = worker.cluster, service = worker.service }])
  precondition {
    condition     = !local.predictions || var.worker != null
    error_message = "services names predictions, which run in tasks: worker must name an image."
  }
}

output "repository_url" {
  description = "Where images of workers are pushed."
  value       = module.registry.url
}

output "objects" {
  description = "The bucket of uploads, results and models, if there is one."
  value       = one(module.objects[*].bucket)
}

output "egress_addresses" {
  description = "The addresses that deliveries come from, for receivers that want a list."
  value       = module.network.egress_addresses
}

output "alarm_topic_arn" {
  description = "The topic that alarms go to."
  value       = module.alarms.topic_arn
}

output "dashboard" {
  description = "The dashboard's name."
  value       = module.alarms.dashboard
}
