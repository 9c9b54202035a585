# One Lambda function with a role of its own, which may do what `permissions` says and no more.

locals {
  zipped = var.package != null

  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html: Lambda itself needs these to
  # attach the function to the network. Describe* knows no resources; the second statement takes
  # them away from the function's own code.
  network_permissions = [
    {
      Sid      = "AttachToNetwork"
      Effect   = "Allow"
      Action   = ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
      Resource = "arn:${var.aws.partition}:ec2:${var.aws.region}:${var.aws.account_id}:*/*"
    },
    {
      Sid      = "LookAtNetwork"
      Effect   = "Allow"
      Action   = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups", "ec2:DescribeVpcs"]
      Resource = "*"
    },
    {
      Sid       = "NotForTheCode"
      Effect    = "Deny"
      Action    = ["ec2:*NetworkInterface*", "ec2:*PrivateIpAddresses", "ec2:Describe*"]
      Resource  = "*"
      Condition = { ArnEquals = { "lambda:SourceFunctionArn" = "arn:${var.aws.partition}:lambda:${var.aws.region}:${var.aws.account_id}:function:${var.name}" } }
    },
  ]
  log_permissions = [{
    Sid      = "WriteLog"
    Effect   = "Allow"
    Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    Resource = "${aws_cloudwatch_log_group.this.arn}:*"
  }]
}

resource "aws_cloudwatch_log_group" "this" {
  # checkov:skip=CKV_AWS_338:log_retention_days is the operator's choice; what is owed and what was done is in the database
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "this" {
  name = var.name
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "function"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.log_permissions, local.network_permissions, var.permissions)
  })
}

resource "aws_lambda_function" "this" {
  # checkov:skip=CKV_AWS_50:traces are carried by traceparent through rows and messages, which X-Ray does not follow
  # checkov:skip=CKV_AWS_115:the event source's maximum_concurrency bounds workers, API Gateway's throttle the API; a reservation would take from the account's other functions, so it is a variable
  # checkov:skip=CKV_AWS_116:only what is invoked asynchronously can use it, and that is the schedule, whose next turn makes up for a lost one
  # checkov:skip=CKV_AWS_272:the package is built, checked and deployed by one workflow with its hash; a signing profile is the account's affair
  function_name    = var.name
  description      = var.description
  role             = aws_iam_role.this.arn
  architectures    = [var.architecture]
  package_type     = local.zipped ? "Zip" : "Image"
  runtime          = local.zipped ? "python3.13" : null
  handler          = local.zipped ? var.handler : null
  filename         = var.package
  source_code_hash = local.zipped ? filebase64sha256(var.package) : null
  image_uri        = var.image
  memory_size      = var.memory_mb
  timeout          = var.timeout_seconds
  kms_key_arn      = var.kms_key_arn

  reserved_concurrent_executions = var.reserved_concurrency

  environment {
    variables = var.environment
  }

  # The image's own command is a worker; as a function it runs Lambda's client and one handler.
  dynamic "image_config" {
    for_each = local.zipped ? [] : [var.handler]
    content {
      entry_point = ["python", "-m", "awslambdaric"]
      command     = [image_config.value]
    }
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [var.security_group_id]
  }

  logging_config {
    log_format = "Text" # the lines are JSON already, and metrics are read from them as they are
    log_group  = aws_cloudwatch_log_group.this.name
  }

  # The network must be permitted before Lambda attaches to it, and until it has let go.
  depends_on = [aws_iam_role_policy.this]

  lifecycle {
    precondition {
      condition     = (var.package == null) != (var.image == null)
      error_message = "A function runs a package or an image: one of the two."
    }
  }
}
