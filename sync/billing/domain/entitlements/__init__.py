"""What the facts grant at one instant, under the catalog: evaluation, projection, overrides, scheduled changes. Pure.

May import: `sync.core`, `domain.facts`, `domain.outcome` and the catalog's values.
"""
