"""Work through many tenants or events: backfill, catch-up and the sweeps after a catalog edit.

May import: every other part of `services`.
"""
