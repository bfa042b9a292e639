"""Outgoing webhooks: backends without a socket are told of new entitlements and of reached thresholds.

It may import sync's core, process and store, and what is pure in billing; nothing but the worker imports it.
"""
