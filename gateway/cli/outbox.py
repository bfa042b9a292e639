"""`planwire outbox`: the relay's own commands for rejected rows, with the settings of a local run filled in."""

from __future__ import annotations

import click

from gateway.cli.common import environment


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def outbox(arguments: tuple[str, ...]) -> None:
    """List, retry or drop the rows that the outbox's relay rejected (needs psycopg)."""
    from sync.outbox.rejected_rows import commands

    commands.main(list(arguments), prog_name="planwire outbox", standalone_mode=False, obj=environment())
