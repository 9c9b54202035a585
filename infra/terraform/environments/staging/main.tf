# Small and cheap, the same in kind.

module "stack" {
  source         = "../../modules/stack"
  services       = var.services
  name_prefix    = "penstock-staging"
  packages       = local.packages
  architecture   = var.architecture
  run_migrations = var.run_migrations
  secret_key_arn = var.secret_key_arn
  settings       = var.settings
  alarm_emails   = var.alarm_emails
  worker         = var.worker

  network = {
    zones        = var.zones
    nat_gateways = 1
  }

  database = {
    instance_class        = "db.t4g.micro"
    multi_az              = false
    backup_retention_days = 3
    deletion_protection   = var.deletion_protection
  }

  api = {
    requests_per_second = 50
    burst               = 100
    domain              = var.domain
  }

  worker_concurrency = 5
}

locals {
  packages = { for name in ["api", "worker", "migrate"] : name => "${var.package_dir}/penstock-${name}.zip" }
}
