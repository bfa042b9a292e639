"""The HTTP routes of billing: webhooks, parked events, tenants, previews, overrides.

May import: every part of `sync.billing`, and `sync.http`.
"""
