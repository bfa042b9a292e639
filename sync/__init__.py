"""The floor: billing events and any backend's publishes in, versioned snapshots in the store out.

It never imports `gateway`.
"""
