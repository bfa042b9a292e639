"""`python -m gateway.server`."""

from gateway.server.main import main

if __name__ == "__main__":
    main()
