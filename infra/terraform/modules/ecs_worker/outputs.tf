output "cluster" {
  description = "The cluster's name."
  value       = aws_ecs_cluster.this.name
}

output "service" {
  description = "The service's name."
  value       = aws_ecs_service.this.name
}

output "log_group_name" {
  description = "Where tasks log."
  value       = aws_cloudwatch_log_group.this.name
}
