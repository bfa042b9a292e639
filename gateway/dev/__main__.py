"""`python -m gateway.dev`."""

import sys

from gateway.dev.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
