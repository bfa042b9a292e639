"""The catalog: what each price grants, read from TOML, and read again when the file changes.

May import: `sync.core`.
"""
