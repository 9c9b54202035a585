variable "name" {
  description = "The schedule's name."
  type        = string
}

variable "description" {
  description = "What happens, for the console."
  type        = string
}

variable "aws" {
  description = "Where this is."
  type        = object({ account_id = string })
}

variable "expression" {
  description = "When, such as rate(1 minute)."
  type        = string
}

variable "function" {
  description = "What is called."
  type = object({
    name = string
    arn  = string
  })
}

variable "kms_key_arn" {
  description = "The key that encrypts the schedule."
  type        = string
}
