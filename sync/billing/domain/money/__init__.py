"""What a change costs: the provider's quote in one form for all providers, and what is billed beside it. Pure.

It imports the standard library, orjson and `sync.core`.
"""
