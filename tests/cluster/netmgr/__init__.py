"""A node's part of a network against a real kernel, nftables and dnsmasq, between namespaces."""
