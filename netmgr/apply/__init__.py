"""A node's kernel and dnsmasq made to fit what is wanted: the I/O of netmgr."""
