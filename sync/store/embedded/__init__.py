"""The store that needs no set-up: a Valkey server in the data directory, started and stopped by this package.

May import: `sync.core`, `sync.process`.
"""
