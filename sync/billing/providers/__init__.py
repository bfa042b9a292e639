"""Billing providers: the contract (`base`), the list (`registry`), and a folder for each.

May import `core`, `store` and `billing.domain.model`.
"""
