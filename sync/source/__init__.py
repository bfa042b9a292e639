"""The application's own backend as a source of topics that billing does not compute.

May import: `sync.core`, `sync.store`, `sync.billing`.
"""
