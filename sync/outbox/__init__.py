"""The relay of an application's outbox table in PostgreSQL: `python -m sync.outbox`.

May import: `sync.core`, `sync.process`, `sync.store`, `sync.settings`.
"""
