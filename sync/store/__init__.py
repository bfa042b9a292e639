"""Versioned snapshots in Redis or Valkey, and the queues, counters and pipelines that live beside them.

May import: `sync.core`, `sync.process`. It knows nothing of billing.
"""
