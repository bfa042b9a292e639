"""The marker that tells the format of an installation's data: no build works on what it does not understand.

A format is raised by every change of what stands in the store that an earlier build could misread. Two builds that
follow one another understand each other's formats, so that a rolling deploy and a roll-back need no stop: `NEEDS` is at
most the `FORMAT` of the build before. docs/operations.md has the policy, and the list of formats.
"""

from __future__ import annotations

from planwire_client.core.commit import FORMAT as FORMAT
from sync.core.errors import SyncError
from sync.store.command_pipeline import Script
from sync.store.store import Store

NEEDS = 1
"""The oldest format that a build must understand that works beside this one."""

_SCHEMA = Script.load("sync.store", "schema")


class SchemaError(SyncError):
    """The store's data needs a newer build. `needs`: the format that one must understand."""

    def __init__(self, needs: int) -> None:
        super().__init__(needs)
        self.needs = needs

    def __str__(self) -> str:
        return (
            f"the store's data has format {self.needs}, and this build understands up to {FORMAT}:"
            " start the newer build again, or name another store or PLANWIRE_PREFIX"
        )


async def mark(store: Store) -> None:
    """Return once the store's data is marked as this build's too.

    Raises:
        SchemaError: it needs a newer build; nothing was changed.
        StoreError: the store is unreachable or failing.
    """
    pipeline = store.pipeline()
    pipeline.script(_SCHEMA, [store.keys.schema], FORMAT, NEEDS)
    (needs,) = map(int, await pipeline.run())
    if needs > FORMAT:
        raise SchemaError(needs)
