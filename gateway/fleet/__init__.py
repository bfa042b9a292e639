"""What the gateways of a deployment tell and ask each other: one control channel, and one way to ask all of them.

May import: `gateway.hub`, `sync.core`, `sync.store`.
"""
