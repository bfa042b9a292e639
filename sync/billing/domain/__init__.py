"""The rules of billing, pure: facts, reducer, projection, decisions. No I/O, no clock.

May import: `sync.core`, `sync.billing.catalog`.
"""
