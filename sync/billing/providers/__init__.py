"""Billing providers: the contract (`base`), the list (`registry`), and a folder for each.

May import: `sync.core`, `sync.process`, `sync.store`, and `facts` and `tenant_naming` of `sync.billing.domain`.
"""
