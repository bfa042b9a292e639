"""Tools for maintainers; no package ships them.

May import: everything.
"""
