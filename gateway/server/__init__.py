"""The web processes: `python -m gateway.server`. Everything that overrides uvicorn is here.

May import: all of `gateway`.
"""
