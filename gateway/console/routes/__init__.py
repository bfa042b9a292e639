"""The console's routes: its page and the page's JSON API.

May import: `gateway.console`, `gateway.api`, `gateway.auth`; of billing only types.
"""
