"""The truth about what should be, kept in SQLite or PostgreSQL.  Knows no libvirt, no node and no client.

Import `clusterhost.store.store.Store`; this file stays empty so that `crash` and `rows` cost nothing to
import.
"""
