"""Keeps the state of this process current, and proves that it is: the reconciler and the probe.

May import: `gateway.hub`, `gateway.bus`, `sync.core`, `sync.store`.
"""
