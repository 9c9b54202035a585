variable "name_prefix" {
  description = "What every name begins with, such as penstock-staging."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name_prefix))
    error_message = "name_prefix is 3 to 24 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "services" {
  description = "Penstock's services, beside jobs."
  type        = set(string)
  default     = ["events"]
  validation {
    condition     = length(setsubtract(var.services, ["events", "tracking", "predictions"])) == 0
    error_message = "services may name: events, tracking, predictions."
  }
}

variable "packages" {
  description = "Paths of the zips that `make package` built."
  type = object({
    api     = string
    worker  = string
    migrate = string
  })
}

variable "architecture" {
  description = "What packages and image were built for: x86_64 or arm64."
  type        = string
  default     = "x86_64"
}

variable "run_migrations" {
  description = "Bring the tables up to date when there is new code. A rollback sets false: it leaves the tables as they are."
  type        = bool
  default     = true
}

variable "secret_key_arn" {
  description = "The secret that holds PENSTOCK_SECRET_KEY, made by hand before the first apply (docs/how-to/aws-deploy.md)."
  type        = string
  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+", var.secret_key_arn))
    error_message = "secret_key_arn is the ARN of a secret in Secrets Manager."
  }
}

variable "settings" {
  description = "More settings of Penstock for every function and task, such as { PENSTOCK_MAIL_BY = \"ses\" }. No secrets: these can be read in the console."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.settings) : startswith(name, "PENSTOCK_")])
    error_message = "Every setting's name begins with PENSTOCK_."
  }
  validation {
    condition     = length(setintersection(keys(var.settings), ["PENSTOCK_SECRET_KEY", "PENSTOCK_DATABASE_URL", "PENSTOCK_SMTP_URL", "PENSTOCK_KEY"])) == 0
    error_message = "Secrets do not belong in settings: they would be in the plan, the state and the console."
  }
}

variable "network" {
  description = "The network: zones by name, so that a new one of AWS's changes nothing; addresses; NAT gateways (0 = nothing leaves AWS); AWS services reached without them."
  type = object({
    zones               = list(string)
    cidr                = optional(string, "10.40.0.0/16")
    nat_gateways        = optional(number, 1)
    interface_endpoints = optional(set(string), [])
  })
}

variable "database" {
  description = "PostgreSQL. connections_per_function: of one invocation; together they must stay below the instance's max_connections."
  type = object({
    instance_class           = string
    allocated_storage_gb     = optional(number, 20)
    max_allocated_storage_gb = optional(number, 200)
    multi_az                 = bool
    backup_retention_days    = number
    deletion_protection      = optional(bool, true)
    connections_per_function = optional(number, 2)
  })
}

variable "api" {
  description = "The HTTP API: what is let through, and a domain of your own."
  type = object({
    memory_mb            = optional(number) # 512; 1024 with predictions
    requests_per_second  = optional(number, 200)
    burst                = optional(number, 400)
    reserved_concurrency = optional(number)
    domain = optional(object({
      name            = string
      certificate_arn = string
    }))
  })
  default = {}
}

variable "worker_concurrency" {
  description = "Invocations of a worker at once."
  type        = number
  default     = 10
}

variable "worker" {
  description = "Tasks, for predictions and your own jobs: the image by digest, and where it declares jobs, if it does. null = none. Secrets: variable to ARN."
  type = object({
    image              = string
    app                = optional(string)
    cpu                = optional(number) # 512; 1024 with predictions
    memory_mb          = optional(number) # 1024; 4096 with predictions
    min_tasks          = optional(number, 1)
    max_tasks          = optional(number, 4)
    log_retention_days = optional(number, 7)
    environment        = optional(map(string), {})
    secrets            = optional(map(string), {})
  })
  default = null
}

variable "mail_identity_arns" {
  description = "Identities of Amazon SES that e-mails may come from."
  type        = list(string)
  default     = []
}

variable "send_texts" {
  description = "Whether text messages may be sent through Amazon SNS."
  type        = bool
  default     = false
}

variable "destination_queue_arns" {
  description = "Queues that endpoints of the kind sqs may name."
  type        = list(string)
  default     = []
}

variable "alarm_emails" {
  description = "Who is told of alarms; each address has to confirm AWS's e-mail."
  type        = set(string)
}

variable "log_level" {
  description = "The least level that is logged."
  type        = string
  default     = "info"
}

variable "log_retention_days" {
  description = "How long functions' logs are kept."
  type        = number
  default     = 14
}
