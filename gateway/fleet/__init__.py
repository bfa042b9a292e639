"""Questions to all gateways at once, over the control channel.

May import: `gateway.hub`, `sync.store`.
"""
