"""A real cluster on one machine, for demonstrations and tests: namespaces as machines, a libvirtd in each."""
