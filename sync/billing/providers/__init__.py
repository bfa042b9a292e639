"""Billing providers: what one must offer (`base`), which ones there are (`registry`), and a folder for each.

May import `core`, `store` and `billing.domain.model`.
"""
