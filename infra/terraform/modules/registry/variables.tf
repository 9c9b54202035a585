variable "name" {
  description = "The repository's name."
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

variable "keep_images" {
  description = "How many images are kept."
  type        = number
  default     = 30
}

variable "pulled_by_functions" {
  description = "Let Lambda run functions whose names begin like this from these images; null = none."
  type        = string
  default     = null
}

variable "kms_key_arn" {
  description = "The key that encrypts the images."
  type        = string
}
