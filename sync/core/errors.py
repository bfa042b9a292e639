"""The root of every error that `sync` raises.

SyncError
├── StoreError    the store could not be reached or refused
└── (each module adds its own below this root)
"""


class SyncError(Exception):
    """Something `sync` could not do; the text says what and why."""
