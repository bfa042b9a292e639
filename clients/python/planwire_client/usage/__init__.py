"""Counts what tenants use of their limits: calls to the gateway with keys and retries, reservations, answers of 429.

It may import the package's core, errors, headers and retries, but neither replica nor publisher.
"""
