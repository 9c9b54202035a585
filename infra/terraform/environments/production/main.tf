# Survives the loss of a zone.

module "stack" {
  source         = "../../modules/stack"
  services       = var.services
  name_prefix    = "penstock-production"
  packages       = local.packages
  architecture   = var.architecture
  run_migrations = var.run_migrations
  secret_key_arn = var.secret_key_arn
  settings       = var.settings
  alarm_emails   = var.alarm_emails
  worker         = var.worker

  network = {
    zones        = var.zones
    nat_gateways = 2
  }

  database = {
    instance_class        = "db.t4g.medium"
    multi_az              = true
    backup_retention_days = 14
    deletion_protection   = var.deletion_protection
  }

  api = {
    domain = var.domain
  }

  worker_concurrency = 10
}

locals {
  packages = { for name in ["api", "worker", "migrate"] : name => "${var.package_dir}/penstock-${name}.zip" }
}
