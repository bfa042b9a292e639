"""The rules shared by servers and clients: topics, limits, documents, patches, commits, frames. Pure.

May import: the standard library and orjson.
"""
