variable "region" {
  description = "The region of AWS."
  type        = string
}

variable "zones" {
  description = "Two or more availability zones of the region, such as [\"eu-west-1a\", \"eu-west-1b\"]; they stay as they are for good."
  type        = list(string)
}

variable "services" {
  description = "Penstock's services, beside jobs: events, tracking, predictions (which need worker)."
  type        = set(string)
  default     = ["events"]
}

variable "package_dir" {
  description = "The folder that `make package` wrote to."
  type        = string
  default     = "../../../../dist/lambda"
}

variable "architecture" {
  description = "What packages and image were built for: x86_64 or arm64."
  type        = string
  default     = "x86_64"
}

variable "run_migrations" {
  description = "false for a rollback: the tables stay as they are."
  type        = bool
  default     = true
}

variable "secret_key_arn" {
  description = "The secret that holds PENSTOCK_SECRET_KEY."
  type        = string
}

variable "settings" {
  description = "More settings of Penstock; no secrets."
  type        = map(string)
  default     = {}
}

variable "alarm_emails" {
  description = "Who is told of alarms."
  type        = set(string)
}

variable "domain" {
  description = "A domain of your own, and the ARN of its certificate."
  type = object({
    name            = string
    certificate_arn = string
  })
  default = null
}

variable "worker" {
  description = "Tasks, for predictions and your own jobs: see modules/stack."
  type = object({
    image              = string
    app                = optional(string)
    cpu                = optional(number)
    memory_mb          = optional(number)
    min_tasks          = optional(number)
    max_tasks          = optional(number)
    log_retention_days = optional(number)
    environment        = optional(map(string))
    secrets            = optional(map(string))
  })
  default = null
}

variable "deletion_protection" {
  description = "false, applied first, is what a wanted destruction needs."
  type        = bool
  default     = true
}
