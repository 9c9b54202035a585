output "name" {
  description = "The function's name."
  value       = aws_lambda_function.this.function_name
}

output "arn" {
  description = "The function's ARN."
  value       = aws_lambda_function.this.arn
}

output "invoke_arn" {
  description = "What API Gateway calls."
  value       = aws_lambda_function.this.invoke_arn
}

output "log_group_name" {
  description = "Where it logs."
  value       = aws_cloudwatch_log_group.this.name
}

output "package_hash" {
  description = "Hash of the deployed package."
  value       = aws_lambda_function.this.source_code_hash
}

output "timeout_seconds" {
  description = "How long one invocation may take."
  value       = aws_lambda_function.this.timeout
}
