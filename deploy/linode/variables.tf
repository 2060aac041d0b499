variable "region" {
  description = "Where the servers of Redis are: a NodeBalancer has its nodes in its own data centre."
  type        = string
  default     = "eu-central"
}

variable "instances" {
  description = "The proxies, by name. Two serve while one is replaced."
  type        = set(string)
  default     = ["a", "b"]
}

variable "drained" {
  description = "Instances that get no new connections, before they are restarted: -var 'drained=[\"a\"]'."
  type        = set(string)
  default     = []
}

variable "type" {
  description = "One core carries over a hundred thousand commands a second."
  type        = string
  default     = "g6-dedicated-2"
}

variable "package_url" {
  description = "Where the instances find pointsman's Debian package."
  type        = string
}

variable "package_sha256" {
  description = "What it must be."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.package_sha256))
    error_message = "Expected 64 hexadecimal digits in lower case."
  }
}

variable "service" {
  description = "The name under which the Sentinels monitor the master."
  type        = string
  default     = "mymaster"
}

variable "sentinels" {
  description = "HOST:PORT of each. They, and the servers that they name, must let the proxies in."
  type        = list(string)

  validation {
    condition     = length(var.sentinels) >= 2
    error_message = "With one alone the proxies cannot start while it is down."
  }
}

variable "clients" {
  description = "Networks whose clients may connect, as the balancer sees them. (It has no firewall here: whoever reaches its address gets as far as the proxy, which refuses the rest.)"
  type        = list(string)
}

variable "administrators" {
  description = "Networks that may come by SSH."
  type        = list(string)
}

variable "monitoring" {
  description = "Networks of the Prometheus that scrapes port 9600."
  type        = list(string)
  default     = []
}

variable "authorized_keys" {
  description = "SSH keys of the administrators."
  type        = list(string)
}
