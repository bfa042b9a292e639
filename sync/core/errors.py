"""The root of every error that `sync` raises.

SyncError
├── StoreError    the store could not be reached or refused
├── CodedError    something was rejected, with a stable code
└── (each module adds its own below this root)
"""


class SyncError(Exception):
    """Something `sync` could not do; the text says what and why."""


class CodedError(SyncError):
    """Something was rejected: `code` is stable, for programs; `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
