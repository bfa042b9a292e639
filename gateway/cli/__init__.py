"""The command line `planwire`: tokens, publishing, watching, parked events, settings, the simulator, a local run.

It is a caller of the gateway like any other and, but for `backfill`, opens no store. Everything heavy is imported by
the command that uses it, so that --help is quick. Bad input is one line on standard error and exit 2; what failed on
the way is exit 1.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from gateway.cli.admin import dev, parked, settings
from gateway.cli.backfill import backfill as backfill_command
from gateway.cli.common import EXIT_FAILED, EXIT_USAGE, note
from gateway.cli.inspect import diff, drift, log, trace
from gateway.cli.outbox import outbox
from gateway.cli.publishing import publish, token, watch
from gateway.cli.simulate import simulate
from gateway.cli.top import top

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="planwire", message="planwire %(version)s")
def cli() -> None:
    """Live plan and entitlement state, from the command line.

    Secrets and addresses come from the environment (PLANWIRE_JWT_SECRET, PLANWIRE_PUBLISH_KEY, PORT, ...), completed
    from dev.env in PLANWIRE_DATA_DIR (default .planwire), which `make run` writes.
    """


for _command in (
    token,
    publish,
    watch,
    simulate,
    parked,
    backfill_command,
    outbox,
    settings,
    dev,
    top,
    trace,
    log,
    diff,
    drift,
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        sys.exit(cli.main(prog_name="planwire", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        # One line, whatever click would add: usage is a --help away.
        note(" ".join(error.format_message().split()))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe went away; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
