"""The root of every error that `sync` raises.

SyncError
├── StoreError    the store is unreachable or failing
│   └── StoreRejected    it works, but rejects what concerns one item
├── CodedError    a rejection with a stable code
└── (each module adds its own below this root)
"""


class SyncError(Exception):
    """An operation of `sync` failed; the text says which and why."""


class CodedError(SyncError):
    """A rejection: `code` is stable, for programs; `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
