"""The newest version of every live topic, and who is subscribed to it.

May import: `gateway.ws.frames`, `gateway.ws.protocol`, `sync.core`, `sync.store`.
"""
