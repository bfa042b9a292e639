"""The services of billing: ingest an event, reproject a tenant, reconcile, catch up, erase, backfill.

May import: every part of `sync.billing` but `api`. Of the modules here, only `wiring` imports the folders.
"""
