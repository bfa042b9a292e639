"""`planwire usage`: what tenants have used of their limits, and the counters of all.

May import: the modules of `gateway.cli` for the environment, calls, tenants and output.
"""

import click

from gateway.cli.usage.export import export
from gateway.cli.usage.tenants import adjust, consume, grant, history, show


@click.group(commands=(show, consume, adjust, grant, history, export))
def usage() -> None:
    """Read and correct what tenants have used of their limits; export the counters of all.

    Example: planwire usage show acme
    """
