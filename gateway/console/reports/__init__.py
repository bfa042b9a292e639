"""A gateway's reports to consoles about itself and its tabs.

May import: `gateway.hub`, `sync.store`.
"""
