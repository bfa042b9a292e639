"""Billing's data in the store: the inbox, tenants' links and facts, records for people, backfill progress.

May import: `sync.core`, `sync.store`, `sync.billing.domain` but `entitlements`, and the values of `providers.base`.
"""
