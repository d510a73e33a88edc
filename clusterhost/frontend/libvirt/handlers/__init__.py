"""Handlers of ROUTES, one module for each family of procedures."""
