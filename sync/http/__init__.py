"""The HTTP kit: requests read and checked, errors as problem documents.

May import: `sync.core`, `sync.store`.
"""
