"""The bodies of billing's operations: requests and answers. The OpenAPI document is generated from them.

May import: `sync.billing.domain`, `sync.billing.providers`, `sync.billing.storage.environment` and `sync.http`.
"""
