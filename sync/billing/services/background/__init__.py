"""Work through many tenants or events: backfill, catch-up and the sweeps after a catalog edit.

It may import every other part of `services`.
"""
