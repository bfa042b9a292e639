"""The HTTP routes of the gateway: state, events, publish, health, metrics.

May import: `gateway.hub`, `gateway.auth`, `sync.http`.
"""
