variable "name" {
  description = "The repository's name."
  type        = string
}

variable "keep_images" {
  description = "How many images are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "The key that encrypts the images."
  type        = string
}
