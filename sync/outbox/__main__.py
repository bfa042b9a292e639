"""`python -m sync.outbox`: the relay; with arguments, the commands on rejected rows."""

import os
import sys

if __name__ == "__main__":
    if sys.argv[1:]:
        from sync.outbox.rejected_rows import commands

        commands(prog_name="python -m sync.outbox")
    from sync.outbox.relay import main

    sys.exit(main(os.environ))
