"""Billing events in, each tenant's plan, limits and modules out.

May import: `sync.core`, `sync.process`, `sync.store`, `sync.http`, `sync.source`, `sync.settings`.
"""
