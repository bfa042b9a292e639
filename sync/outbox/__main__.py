"""`python -m sync.outbox`: the relay; with arguments, the commands on rejected rows."""

import os
import sys

if __name__ == "__main__":
    if sys.argv[1:]:
        from sync.outbox import rejected_rows

        rejected_rows.main()
    from sync.outbox.relay import main

    sys.exit(main(os.environ))
