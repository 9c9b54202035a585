output "url" {
  description = "The database's URL without the password."
  value       = "postgresql://${aws_db_instance.this.username}@${aws_db_instance.this.address}:${aws_db_instance.this.port}/${aws_db_instance.this.db_name}?sslmode=require"
}

output "password_secret_arn" {
  description = "The secret that RDS keeps: JSON with username and password."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "identifier" {
  description = "The instance's name."
  value       = aws_db_instance.this.identifier
}
