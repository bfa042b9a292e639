"""`python -m sync.outbox` runs the relay; with arguments, it runs the commands for rejected rows."""

import os
import sys

if __name__ == "__main__":
    if sys.argv[1:]:
        from sync.outbox.rejected_rows import commands

        commands(prog_name="python -m sync.outbox")
    from sync.outbox.relay import main

    sys.exit(main(os.environ))
