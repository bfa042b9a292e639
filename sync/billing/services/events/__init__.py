"""One event from its verified body to the committed state, in five stages.

May import: `domain`, `catalog`, `providers`, `storage`, and the modules beside this folder but `wiring`.
"""
