"""The application's own backend as a source of topics that billing does not compute.

May import: `sync.core`, `sync.process`, `sync.store`, `sync.settings`, and of billing only `providers`.
"""
