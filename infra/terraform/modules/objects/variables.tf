variable "name" {
  description = "What the bucket's name begins with."
  type        = string
}

variable "aws" {
  description = "Where this is."
  type = object({
    account_id = string
    region     = string
  })
}

variable "origin" {
  description = "The site whose pages may send and fetch files: the API's URL."
  type        = string
}

variable "deleted_days" {
  description = "How long what was deleted or written over can be brought back."
  type        = number
  default     = 7
  validation {
    condition     = var.deleted_days >= 1
    error_message = "S3 takes 1 day or more."
  }
}

variable "force_destroy" {
  description = "Delete the bucket with everything in it when it is to be destroyed."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "The key that encrypts objects."
  type        = string
}
