variable "name" {
  description = "The service's name, also the cluster's."
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

variable "image" {
  description = "The image, by digest: what was tested is what runs."
  type        = string
  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest: REPOSITORY@sha256:…, not by tag."
  }
}

variable "app" {
  description = "Where jobs are declared, MODULE:NAME; null = none are."
  type        = string
  default     = null
}

variable "repository_arn" {
  description = "The repository that holds the image."
  type        = string
}

variable "architecture" {
  description = "What the image was built for: x86_64 or arm64."
  type        = string
}

variable "cpu" {
  description = "Processor share of a task: 1024 is one."
  type        = number
}

variable "memory_mb" {
  description = "Memory of a task."
  type        = number
}

variable "min_tasks" {
  description = "Tasks that are always there. With 0, the first wake-up waits some three minutes for a task, and a schedule of jobs (cron) is looked at while one is there."
  type        = number
  validation {
    condition     = var.min_tasks >= 0
    error_message = "min_tasks is 0 or more."
  }
}

variable "max_tasks" {
  description = "Tasks at most; each uses connections of the database."
  type        = number
}

variable "environment" {
  description = "Environment variables."
  type        = map(string)
}

variable "secrets" {
  description = "Environment variables whose values are in Secrets Manager: ARN, or ARN:key::."
  type        = map(string)
}

variable "renew_at" {
  description = "When tasks are replaced so that they read secrets anew, as cron(…) in UTC."
  type        = string
}

variable "permissions" {
  description = "Statements of the policy of what runs in the task."
  type        = any
}

variable "queue_names" {
  description = "The queues whose length decides how many tasks there are."
  type        = list(string)
}

variable "subnet_ids" {
  description = "Where tasks are attached to the network."
  type        = list(string)
}

variable "security_group_id" {
  description = "Whom tasks may talk to."
  type        = string
}

variable "log_retention_days" {
  description = "How long the log is kept."
  type        = number
}

variable "kms_key_arn" {
  description = "The key that encrypts log and secrets."
  type        = string
}
