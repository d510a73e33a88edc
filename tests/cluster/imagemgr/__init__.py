"""Images between real processes in network namespaces."""
