variable "name" {
  description = "Name of the key's alias."
  type        = string
}

variable "aws" {
  description = "Where this is."
  type = object({
    account_id = string
    region     = string
    partition  = string
    dns_suffix = string
  })
}
