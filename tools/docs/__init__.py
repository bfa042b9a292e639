"""Generators of documents under docs/; `make docs` runs them.

May import: `gateway`, `sync`.
"""
