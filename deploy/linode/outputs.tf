output "address" {
  description = "Where clients connect."
  value       = "${linode_nodebalancer.pointsman.ipv4}:${local.port}"
}

output "instances" {
  description = "Where administrators connect."
  value       = { for name, instance in linode_instance.pointsman : name => instance.ip_address }
}
