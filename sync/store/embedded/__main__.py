"""`python -m sync.store.embedded`."""

import asyncio
import sys

from sync.core.errors import SyncError
from sync.store.embedded.server import main

if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (SyncError, ValueError) as problem:
        print(f"store: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
