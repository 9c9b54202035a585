output "topic_arn" {
  description = "The topic that alarms go to; more can be subscribed to it."
  value       = aws_sns_topic.this.arn
}

output "dashboard" {
  description = "The dashboard's name."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}
