"""A local copy of topics, kept current over WebSockets: the replica, its connections, and the state of each topic.

May import: `planwire_client.core`, `planwire_client.errors`.
"""
