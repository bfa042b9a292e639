"""Work on one tenant without a new event: comparison with the provider, timers, links and erasure.

May import: what `events` may import, `events`, and `wiring`.
"""
