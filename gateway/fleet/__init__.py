"""Messages between the gateways of a deployment: one control channel, and queries to all gateways over it.

May import: `gateway.hub`, `sync.core`, `sync.store`.
"""
