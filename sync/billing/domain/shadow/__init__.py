"""Billing in the shadow of another entitlement system: how its answers are read and compared. Pure.

May import: `sync.core`, `sync.billing.catalog`, `domain.facts`, `domain.entitlements`.
"""
