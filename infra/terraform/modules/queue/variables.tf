variable "name" {
  description = "The queue's name; its dead-letter queue is called NAME-dlq."
  type        = string
}

variable "visibility_timeout_seconds" {
  description = "How long a received message stays hidden: for a function, six times its timeout."
  type        = number
  validation {
    condition     = var.visibility_timeout_seconds >= 1 && var.visibility_timeout_seconds <= 43200
    error_message = "SQS takes 1 to 43200 seconds."
  }
}

variable "retention_seconds" {
  description = "How long a message nobody takes is kept."
  type        = number
}

variable "dead_letter_retention_seconds" {
  description = "The same in the dead-letter queue; must be longer."
  type        = number
  default     = 14 * 24 * 3600
  validation {
    condition     = var.dead_letter_retention_seconds <= 1209600
    error_message = "SQS keeps messages for 14 days (1209600 seconds) at most."
  }
}

variable "max_receive_count" {
  description = "How often a message is tried before it moves to the dead-letter queue."
  type        = number
  default     = 10
}
