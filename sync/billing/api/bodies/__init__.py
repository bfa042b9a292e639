"""The bodies of the intake's operations: what is read, and what is answered. The OpenAPI document is made of them.

May import: `sync.billing.domain`, `sync.billing.providers`, `sync.http`.
"""
