"""Takes announcements off the bus: a subscriber, and a connection to each shard of the store.

May import: `sync.core`, `sync.store`.
"""
