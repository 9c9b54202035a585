# PostgreSQL. RDS makes the password and keeps it in Secrets Manager; it is in no state and no plan.

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnet_ids
}

resource "aws_security_group" "this" {
  name        = "${var.name}-database"
  description = "PostgreSQL, from functions and workers alone"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-database" }
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each                     = var.client_security_group_ids
  security_group_id            = aws_security_group.this.id
  description                  = "PostgreSQL from ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = each.value
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  family      = "postgres${split(".", var.engine_version)[0]}"
  description = "Penstock"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  # A function that was frozen within a transaction must not hold up claims and vacuum.
  parameter {
    name  = "idle_in_transaction_session_timeout"
    value = "60000"
  }

  lifecycle {
    create_before_destroy = true
  }
}

# RDS would make them itself, unencrypted and for ever.
resource "aws_cloudwatch_log_group" "this" {
  # checkov:skip=CKV_AWS_338:log_retention_days is the operator's choice; what was done is in the database
  for_each          = toset(["postgresql", "upgrade"])
  name              = "/aws/rds/instance/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_db_instance" "this" {
  # checkov:skip=CKV2_AWS_30:statements are not logged, because their parameters are payloads and addresses; the slow ones are in Database Insights
  # checkov:skip=CKV_AWS_118:Performance Insights and the alarms on due rows say what enhanced monitoring would, at no cost
  # checkov:skip=CKV_AWS_157:multi_az is a variable; production sets it
  # checkov:skip=CKV_AWS_161:tokens of IAM last 15 minutes and would be fetched at each new connection; the password is RDS's own and rotates
  # checkov:skip=CKV_AWS_293:deletion_protection is a variable, on by default
  identifier     = var.name
  engine         = "postgres"
  engine_version = var.engine_version
  instance_class = var.instance_class

  db_name                       = "penstock"
  username                      = "penstock"
  manage_master_user_password   = true
  master_user_secret_kms_key_id = var.kms_key_arn

  allocated_storage     = var.allocated_storage_gb
  max_allocated_storage = var.max_allocated_storage_gb
  storage_type          = "gp3"
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.this.id]
  publicly_accessible    = false
  multi_az               = var.multi_az
  parameter_group_name   = aws_db_parameter_group.this.name
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  backup_retention_period    = var.backup_retention_days
  copy_tags_to_snapshot      = true
  deletion_protection        = var.deletion_protection
  skip_final_snapshot        = !var.deletion_protection
  final_snapshot_identifier  = var.deletion_protection ? "${var.name}-final" : null
  auto_minor_version_upgrade = true
  apply_immediately          = false

  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = 7
  enabled_cloudwatch_logs_exports       = [for name in keys(aws_cloudwatch_log_group.this) : name]

  lifecycle {
    precondition {
      condition     = var.max_allocated_storage_gb > var.allocated_storage_gb
      error_message = "max_allocated_storage_gb must be above allocated_storage_gb: a full disk stops everything."
    }
  }
}
