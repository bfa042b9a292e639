"""The console's routes: its page and the JSON behind it.

May import: `gateway.console`.
"""
