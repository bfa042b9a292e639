"""What is known of a tenant, and how an event changes it: the model, its encoding, and the reducer. Pure.

May import: the standard library, orjson and `sync.core`, and `outcome` and `money` beside it.
"""
