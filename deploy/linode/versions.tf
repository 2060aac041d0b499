terraform {
  required_version = ">= 1.5"

  required_providers {
    linode = {
      source  = "linode/linode"
      version = ">= 2.30, < 4.0"
    }
  }
}

# The token comes from the environment: LINODE_TOKEN.
provider "linode" {}
