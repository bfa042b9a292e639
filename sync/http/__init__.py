"""The HTTP kit of both packages: route declarations, request reading and checking, errors as problem documents.

May import: `sync.core`, `sync.process`, `sync.store`.
"""
