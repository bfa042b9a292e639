"""What a gateway reports to consoles of itself and its tabs.

May import: `gateway.hub`, `sync.store`.
"""
