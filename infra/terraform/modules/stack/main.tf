# One environment of Penstock. environments/staging and environments/production are this with
# other values, so that what was tried in the one is what runs in the other.

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}
data "aws_partition" "this" {}

locals {
  aws = {
    account_id = data.aws_caller_identity.this.account_id
    region     = data.aws_region.this.name
    partition  = data.aws_partition.this.partition
    dns_suffix = data.aws_partition.this.dns_suffix
  }

  # Penstock's services here, and the kinds of work that each has (KINDS in penstock/runtime.py).
  # Jobs are always there: their rows are swept and shown even where no worker runs any.
  services = setunion(["jobs"], var.services)
  kinds = {
    jobs        = ["job"]
    events      = ["delivery", "fanout", "replay"]
    tracking    = ["shipment_check", "shipment_import"]
    predictions = ["prediction", "model_training"]
  }

  # Files are scored and models trained by tasks. What the packages of functions do not hold,
  # numpy and pyarrow, is in the tasks' image: the functions that need it run from there.
  predictions = contains(var.services, "predictions")

  worker_timeout = 60 # seconds
  retention_days = { events = 7, jobs = 4, tracking = 4, predictions = 4 }
}

module "key" {
  source = "../key"
  name   = var.name_prefix
  aws    = local.aws
}

module "network" {
  source              = "../network"
  name                = var.name_prefix
  aws                 = local.aws
  cidr                = var.network.cidr
  zones               = var.network.zones
  nat_gateways        = var.network.nat_gateways
  interface_endpoints = var.network.interface_endpoints
  log_retention_days  = var.log_retention_days
  kms_key_arn         = module.key.arn
}

module "database" {
  source                   = "../database"
  name                     = var.name_prefix
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.subnet_ids
  instance_class           = var.database.instance_class
  allocated_storage_gb     = var.database.allocated_storage_gb
  max_allocated_storage_gb = var.database.max_allocated_storage_gb
  multi_az                 = var.database.multi_az
  backup_retention_days    = var.database.backup_retention_days
  deletion_protection      = var.database.deletion_protection
  log_retention_days       = var.log_retention_days
  kms_key_arn              = module.key.arn
  client_security_group_ids = {
    inside   = module.network.inside_security_group_id
    outbound = module.network.outbound_security_group_id
  }
}

module "queue" {
  source                     = "../queue"
  for_each                   = local.services
  name                       = "${var.name_prefix}-${each.key}"
  visibility_timeout_seconds = 6 * local.worker_timeout
  retention_seconds          = local.retention_days[each.key] * 24 * 3600
}

module "registry" {
  source              = "../registry"
  name                = "${var.name_prefix}-worker"
  aws                 = local.aws
  pulled_by_functions = local.predictions ? "${var.name_prefix}-" : null
  kms_key_arn         = module.key.arn
}

module "objects" {
  source        = "../objects"
  count         = local.predictions ? 1 : 0
  name          = var.name_prefix
  aws           = local.aws
  origin        = module.api.url
  force_destroy = !var.database.deletion_protection
  kms_key_arn   = module.key.arn
}
