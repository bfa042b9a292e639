"""Billing's data in the store: the inbox, tenants' links and facts, records for people, backfill progress.

May import: `sync.core`, `sync.store`, the facts and names of `sync.billing.domain`, and the values of `providers.base`.
"""
