"""Checks that the store is fit for use: its user's rights, its eviction policy, the format of its data.

May import: `sync.store`, `sync.core`.
"""
