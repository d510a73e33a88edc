"""Alembic's directory: env.py and one module a revision.  Run by clusterhost.store.schema alone."""
