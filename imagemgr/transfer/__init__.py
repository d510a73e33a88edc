"""Images from node to node: a process at each node that offers, serves, fetches and verifies."""
