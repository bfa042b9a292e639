"""What every process does at its start and end: read the environment, log, stop, follow its parent.

May import: `sync.core`.
"""
