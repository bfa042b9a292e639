"""The announcements of the store's bus, read by one connection a shard.

May import: `sync.core`, `sync.store`.
"""
