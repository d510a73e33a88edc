"""`make bench`: the cluster against a node's own libvirtd, same client, alternated in one run, told as ratios."""
