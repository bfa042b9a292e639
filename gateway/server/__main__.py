"""`python -m gateway.server`."""

from gateway.server.server import main

if __name__ == "__main__":
    main()
