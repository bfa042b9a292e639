"""Authentication and authorization: tokens, key sets, publish keys, revocations, origins, addresses.

May import: `sync.core`, `sync.store`; `revocation_store` the settings.
"""
