"""The command line `planwire`: tokens, publishing, watching, parked events, settings, the simulator, a local run.

May import: all of `gateway` and `sync`. Heavy imports are inside the command that needs them, so that --help is
fast. Commands call the gateway's HTTP API; only `backfill`, `outbox` and `catalog diff` open a store. Bad input gives
one line on standard error and exit status 2, a failure exit status 1.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from gateway.cli.admin import dev, outbox, parked, settings
from gateway.cli.backfill import backfill
from gateway.cli.catalog import catalog
from gateway.cli.common import EXIT_FAILED, EXIT_USAGE
from gateway.cli.inspect import diff, drift, log, trace
from gateway.cli.output import note
from gateway.cli.publishing import publish, token, watch
from gateway.cli.shadow import shadow
from gateway.cli.simulate import simulate
from gateway.cli.tenants import grant, link, links, overrides, revive
from gateway.cli.top import top
from gateway.cli.usage import usage

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
_COMMANDS = (
    token, publish, watch, simulate, parked, link, links, grant, overrides, revive, usage, catalog, shadow, backfill,
    outbox, settings, dev, top, trace, log, diff, drift,
)  # fmt: skip


@click.group(commands=_COMMANDS, context_settings=_CONTEXT)
@click.version_option(package_name="planwire", message="planwire %(version)s")
def cli() -> None:
    """Live plan and entitlement state, from the command line.

    Secrets and addresses come from the environment (PLANWIRE_JWT_SECRET, PLANWIRE_PUBLISH_KEY, PORT, ...), completed
    from dev.env in PLANWIRE_DATA_DIR (default .planwire), which `make run` writes.
    """


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        sys.exit(cli.main(prog_name="planwire", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        # One line, without the usage text that click would add.
        note(" ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe is gone. Redirect stdout, so that the interpreter's flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
