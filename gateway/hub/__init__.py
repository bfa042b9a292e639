"""The newest version of every live topic, and the sockets subscribed to it.

May import: `gateway.ws.frames`, `gateway.ws.protocol`, `gateway.metrics`, `sync`.
"""
