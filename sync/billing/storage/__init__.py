"""What billing keeps in the store: the inbox, tenant links, event logs, previews, drift.

May import: `sync.store`, `sync.billing.domain`.
"""
