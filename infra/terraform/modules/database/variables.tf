variable "name" {
  description = "The instance's name."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in two zones at least."
  type        = list(string)
}

variable "client_security_group_ids" {
  description = "Who may connect, by a name of your choice."
  type        = map(string)
}

variable "engine_version" {
  description = "PostgreSQL's version, 16 or newer."
  type        = string
  default     = "16"
}

variable "instance_class" {
  description = "Size of the instance."
  type        = string
}

variable "allocated_storage_gb" {
  description = "Storage to begin with."
  type        = number
  default     = 20
}

variable "max_allocated_storage_gb" {
  description = "How far storage grows by itself."
  type        = number
  default     = 200
}

variable "multi_az" {
  description = "A standby in another zone."
  type        = bool
}

variable "backup_retention_days" {
  description = "How far back the database can be restored."
  type        = number
  validation {
    condition     = var.backup_retention_days >= 1 && var.backup_retention_days <= 35
    error_message = "RDS takes 1 to 35 days; 0 would turn backups off."
  }
}

variable "deletion_protection" {
  description = "Refuse to delete the database, and keep a last snapshot when it is deleted all the same."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "How long the database's log is kept."
  type        = number
}

variable "kms_key_arn" {
  description = "The key that encrypts storage, password and log."
  type        = string
}
