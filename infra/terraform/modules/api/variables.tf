variable "name" {
  description = "The API's name."
  type        = string
}

variable "function" {
  description = "The function that answers."
  type = object({
    name       = string
    invoke_arn = string
  })
}

variable "requests_per_second" {
  description = "What API Gateway lets through; beyond it answers 429."
  type        = number
  default     = 200
}

variable "burst" {
  description = "Requests at once beyond that rate."
  type        = number
  default     = 400
}

variable "domain" {
  description = "A domain of your own and its certificate in ACM, in the same region."
  type = object({
    name            = string
    certificate_arn = string
  })
  default = null
}

variable "log_retention_days" {
  description = "How long the access log is kept."
  type        = number
}

variable "kms_key_arn" {
  description = "The key that encrypts the access log."
  type        = string
}
