variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "aws" {
  description = "Where this is."
  type = object({
    account_id = string
    region     = string
  })
}

variable "emails" {
  description = "Who is told."
  type        = set(string)
}

variable "metrics" {
  description = "Where Penstock's own metrics are."
  type = object({
    namespace  = string
    dimensions = map(string)
  })
}

variable "kinds" {
  description = "The kinds of work that are run here."
  type        = set(string)
}

variable "queues" {
  description = "Names of the queues, by service."
  type        = map(string)
}

variable "dead_letter_queues" {
  description = "Names of their dead-letter queues, by service."
  type        = map(string)
}

variable "functions" {
  description = "Names of the functions, by what they do; one is the sweeper."
  type        = map(string)
  validation {
    condition     = contains(keys(var.functions), "sweeper")
    error_message = "The sweeper's calls are the heartbeat."
  }
}

variable "worker" {
  description = "The service of the tasks, if there is one."
  type = object({
    cluster = string
    service = string
    always  = bool # whether a task is there at any time
  })
}

variable "api_id" {
  description = "The HTTP API."
  type        = string
}

variable "database_identifier" {
  description = "The database instance."
  type        = string
}

variable "log_group_names" {
  description = "Logs that the saved queries look at."
  type        = list(string)
}

variable "kms_key_arn" {
  description = "The key that encrypts alarms on their way."
  type        = string
}
