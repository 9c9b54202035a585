terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0" # the one that is tested
    }
  }

  # Bucket, key and region are given to `terraform init -backend-config=…`; the state holds no
  # secret, but names everything there is.
  backend "s3" {
    encrypt = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = {
      Application = "penstock"
      Environment = "production"
      ManagedBy   = "terraform"
    }
  }
}
