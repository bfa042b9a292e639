"""`planwire catalog`: the file of a catalog, and the versions of its plans that tenants have.

May import: `sync`, and the modules of `gateway.cli` for the environment, calls and output.
"""

import click

from gateway.cli.catalog.files import check, diff
from gateway.cli.catalog.versions import migrate, versions


@click.group(commands=(check, diff, versions, migrate))
def catalog() -> None:
    """Check a catalog, see whom an edit affects, and move customers to another version of a plan.

    Example: planwire catalog check catalog.toml
    """
