"""Connections to Redis and Valkey: standalone, Sentinel and Cluster, their retries, and their pub/sub.

May import: `sync.store` but `checks`, `sync.core`, `sync.process`.
"""
