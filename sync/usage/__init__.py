"""Usage: what a tenant has used of its limits, counted in the tenant's own slot of the store.

It may import sync's core, store, HTTP kit and catalog; billing does not import it.
"""
