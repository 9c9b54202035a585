variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "aws" {
  description = "Where this is."
  type = object({
    account_id = string
    region     = string
    partition  = string
  })
}

variable "cidr" {
  description = "The network's addresses, /16 to /22."
  type        = string
  default     = "10.40.0.0/16"
}

variable "zones" {
  description = "Availability zones; the database wants two at least."
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 8
    error_message = "Name 2 to 8 availability zones: a database's subnets must lie in two at least."
  }
}

variable "nat_gateways" {
  description = "How many NAT gateways: 1 is cheaper, one a zone survives the loss of a zone, 0 leaves no way to endpoints outside of AWS."
  type        = number
  default     = 1
  validation {
    condition     = var.nat_gateways >= 0 && var.nat_gateways <= length(var.zones) && floor(var.nat_gateways) == var.nat_gateways
    error_message = "nat_gateways is a whole number from 0 to the number of zones."
  }
}

variable "interface_endpoints" {
  description = "AWS services to reach without the NAT gateway, such as sqs and secretsmanager. Each is paid by the hour and zone."
  type        = set(string)
  default     = []
  validation {
    condition     = var.nat_gateways > 0 || length(setsubtract(["sqs", "secretsmanager"], var.interface_endpoints)) == 0
    error_message = "Without a NAT gateway, interface_endpoints needs sqs and secretsmanager: nothing would work."
  }
}

variable "log_retention_days" {
  description = "How long refused connections are kept."
  type        = number
  default     = 14
}

variable "kms_key_arn" {
  description = "The key that encrypts the log."
  type        = string
}
