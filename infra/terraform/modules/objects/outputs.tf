output "url" {
  description = "What PENSTOCK_OBJECTS is."
  value       = "s3://${aws_s3_bucket.this.bucket}/objects"
}

output "bucket" {
  description = "The bucket's name."
  value       = aws_s3_bucket.this.bucket
}

output "permissions" {
  description = "What whoever keeps objects needs to be allowed."
  value = [
    {
      Sid      = "KeepObjects"
      Effect   = "Allow"
      Action   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = "${aws_s3_bucket.this.arn}/objects/*"
    },
    {
      # Also that an object is not there is told to those alone who may list. A condition on the
      # prefix would take that away: reading has none.
      Sid      = "FindObjects"
      Effect   = "Allow"
      Action   = "s3:ListBucket"
      Resource = aws_s3_bucket.this.arn
    },
    {
      Sid      = "SealObjects"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = var.kms_key_arn
    },
  ]
}
