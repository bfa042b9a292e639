"""What maintainers run and no package ships.

May import: everything.
"""
