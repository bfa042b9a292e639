"""Receives announcements from the bus: one subscriber, with one connection to each shard of the store.

May import: `sync.core`, `sync.store`.
"""
