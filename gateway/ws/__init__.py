"""WebSocket connections: handshake, frames, sessions, the registry of all of them.

May import: `gateway.hub`, `gateway.auth`.
"""
