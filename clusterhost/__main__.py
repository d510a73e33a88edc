"""`python -m clusterhost` is the clusterhost command."""

from clusterhost.cli.main import main

main()
