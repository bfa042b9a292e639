"""The HTTP kit of both packages: declared routes, requests read and checked, errors as problem documents.

May import: `sync.core`, `sync.process`, `sync.store`.
"""
