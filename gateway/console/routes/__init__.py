"""The console's routes: its page and the JSON behind it.

May import: `gateway.console`, `gateway.api`, `gateway.auth`; of billing only types.
"""
