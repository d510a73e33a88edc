"""Names of the cluster in a DNS server outside, kept by RFC 2136 updates.  Knows networks by what is wanted of them."""
