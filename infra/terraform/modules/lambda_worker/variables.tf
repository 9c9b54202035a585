variable "name" {
  description = "The function's name, also its role's."
  type        = string
}

variable "description" {
  description = "What it does, for the console."
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

variable "handler" {
  description = "The function in penstock.aws.lambda_handlers."
  type        = string
  validation {
    condition     = startswith(var.handler, "penstock.aws.lambda_handlers.")
    error_message = "The handler is one of penstock.aws.lambda_handlers."
  }
}

variable "package" {
  description = "Path of the zip that `make package` built."
  type        = string
}

variable "architecture" {
  description = "What the package was built for."
  type        = string
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is x86_64 or arm64."
  }
}

variable "memory_mb" {
  description = "Memory, and with it the share of a processor."
  type        = number
}

variable "timeout_seconds" {
  description = "How long one invocation may take."
  type        = number
  validation {
    condition     = var.timeout_seconds >= 1 && var.timeout_seconds <= 900
    error_message = "Lambda takes 1 to 900 seconds."
  }
}

variable "reserved_concurrency" {
  description = "Invocations at once, taken from the account's; null = no bound of its own."
  type        = number
  default     = null
}

variable "environment" {
  description = "Environment variables; secrets are named here by ARN, not given."
  type        = map(string)
}

variable "permissions" {
  description = "Statements of the role's policy, beside log and network."
  type        = any
}

variable "subnet_ids" {
  description = "Where it is attached to the network."
  type        = list(string)
}

variable "security_group_id" {
  description = "Whom it may talk to."
  type        = string
}

variable "log_retention_days" {
  description = "How long its log is kept."
  type        = number
}

variable "kms_key_arn" {
  description = "The key that encrypts its log and environment."
  type        = string
}

variable "queue" {
  description = "The queue that invokes it."
  type = object({
    arn                        = string
    visibility_timeout_seconds = number
  })
}

variable "batch_size" {
  description = "Messages to one invocation at most."
  type        = number
  default     = 10
}

variable "maximum_concurrency" {
  description = "Invocations at once; each uses connections of the database."
  type        = number
  default     = 10
  validation {
    condition     = var.maximum_concurrency >= 2 && var.maximum_concurrency <= 1000
    error_message = "Lambda takes 2 to 1000."
  }
}
