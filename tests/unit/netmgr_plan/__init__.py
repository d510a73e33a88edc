"""The pure parts of a node's share in a network."""
