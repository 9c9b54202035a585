output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "subnet_ids" {
  description = "The private subnets."
  value       = [for zone in var.zones : aws_subnet.private[zone].id]
}

output "inside_security_group_id" {
  description = "For what talks to the database and AWS only."
  value       = aws_security_group.inside.id
}

output "outbound_security_group_id" {
  description = "For what talks to endpoints as well."
  value       = aws_security_group.outbound.id
}

output "egress_addresses" {
  description = "The addresses that deliveries come from."
  value       = [for address in aws_eip.nat : address.public_ip]
}
