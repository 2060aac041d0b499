# Equal proxies behind a NodeBalancer in TCP mode. What it can do to find out whether one is alive is to connect, so a
# proxy that is leaving closes its port: see docs/operations.md for the order of a restart.

locals {
  # Where NodeBalancers connect from, with nodes that have a private address.
  balancers = "192.168.255.0/24"
  port      = 6379
}

resource "linode_instance" "pointsman" {
  for_each = var.instances

  label           = "pointsman-${each.key}"
  region          = var.region
  type            = var.type
  image           = "linode/debian12"
  private_ip      = true
  authorized_keys = var.authorized_keys
  firewall_id     = linode_firewall.pointsman.id
  tags            = ["pointsman"]

  metadata {
    user_data = base64encode(templatefile("${path.module}/cloud-init.yaml", {
      package_url    = var.package_url
      package_sha256 = var.package_sha256
      configuration = templatefile("${path.module}/pointsman.toml", {
        service    = var.service
        sentinels  = jsonencode(var.sentinels)
        port       = local.port
        balancers  = local.balancers
        clients    = jsonencode(var.clients)
        monitoring = length(var.monitoring) > 0
      })
    }))
  }

  lifecycle {
    # The assignments below make it.
    ignore_changes = [placement_group]
  }
}

# On different hosts.
resource "linode_placement_group" "pointsman" {
  label                  = "pointsman"
  region                 = var.region
  placement_group_type   = "anti_affinity:local"
  placement_group_policy = "flexible"
}

resource "linode_placement_group_assignment" "pointsman" {
  for_each = linode_instance.pointsman

  placement_group_id = linode_placement_group.pointsman.id
  linode_id          = each.value.id
}

resource "linode_firewall" "pointsman" {
  label           = "pointsman"
  inbound_policy  = "DROP"
  outbound_policy = "ACCEPT"

  # A header of the PROXY protocol says who the client is. Only the balancer may say that.
  inbound {
    label    = "balancers"
    action   = "ACCEPT"
    protocol = "TCP"
    ports    = tostring(local.port)
    ipv4     = [local.balancers]
  }

  inbound {
    label    = "ssh"
    action   = "ACCEPT"
    protocol = "TCP"
    ports    = "22"
    ipv4     = var.administrators
  }

  dynamic "inbound" {
    for_each = length(var.monitoring) > 0 ? [var.monitoring] : []

    content {
      label    = "monitoring"
      action   = "ACCEPT"
      protocol = "TCP"
      ports    = "9600"
      ipv4     = inbound.value
    }
  }
}

resource "linode_nodebalancer" "pointsman" {
  label  = "pointsman"
  region = var.region
  # New connections of one address in a second, 0: any number. PHP connects with every request.
  client_conn_throttle = 0
  tags                 = ["pointsman"]
}

resource "linode_nodebalancer_config" "redis" {
  nodebalancer_id = linode_nodebalancer.pointsman.id
  port            = local.port
  protocol        = "tcp"
  # The client's address reaches the proxy, which counts and admits by it.
  proxy_protocol = "v2"
  # Connections last; taking turns would leave the proxy that was started last with none.
  algorithm = "leastconn"
  # By the client's address a whole fleet behind one NAT would land on one proxy.
  stickiness = "none"
  # To the traffic port; there is no other in TCP mode.
  check          = "connection"
  check_interval = 5
  check_timeout  = 3
  check_attempts = 2
  # A refused connection takes the node out at once.
  check_passive = true
}

resource "linode_nodebalancer_node" "pointsman" {
  for_each = linode_instance.pointsman

  nodebalancer_id = linode_nodebalancer.pointsman.id
  config_id       = linode_nodebalancer_config.redis.id
  label           = each.value.label
  address         = "${each.value.private_ip_address}:${local.port}"
  mode            = contains(var.drained, each.key) ? "drain" : "accept"
  weight          = 100

  lifecycle {
    replace_triggered_by = [linode_instance.pointsman[each.key]]
  }
}
