output "name" {
  description = "The function's name."
  value       = module.function.name
}

output "log_group_name" {
  description = "Where it logs."
  value       = module.function.log_group_name
}
