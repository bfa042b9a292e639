"""What billing does: ingest an event, reproject a tenant, reconcile, catch up, erase, backfill.

May import: every part of `sync.billing` but `api`.
"""
