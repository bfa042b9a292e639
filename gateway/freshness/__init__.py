"""Is what this process holds current, and can it prove it: the reconciler and the probe.

May import: `gateway.hub`, `gateway.bus`, `sync.core`, `sync.store`.
"""
