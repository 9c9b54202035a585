output "url" {
  description = "Where the API is."
  value       = module.stack.url
}

output "domain_target" {
  description = "What the CNAME of a domain of your own must point to."
  value       = module.stack.domain_target
}

output "queues" {
  description = "URL and ARN of each queue and of its dead-letter queue."
  value       = module.stack.queues
}

output "functions" {
  description = "Names of the functions."
  value       = module.stack.functions
}

output "objects" {
  description = "The bucket of uploads, results and models, if there is one."
  value       = module.stack.objects
}

output "worker" {
  description = "Cluster and service of the tasks."
  value       = module.stack.worker
}

output "repository_url" {
  description = "Where images of workers are pushed."
  value       = module.stack.repository_url
}

output "egress_addresses" {
  description = "The addresses that deliveries come from."
  value       = module.stack.egress_addresses
}

output "alarm_topic_arn" {
  description = "The topic that alarms go to."
  value       = module.stack.alarm_topic_arn
}

output "dashboard" {
  description = "The dashboard's name."
  value       = module.stack.dashboard
}
