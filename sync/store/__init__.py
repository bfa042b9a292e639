"""Versioned snapshots in Redis or Valkey, with queues, leases, counters and command pipelines.

May import: `sync.core`, `sync.process`.
"""
