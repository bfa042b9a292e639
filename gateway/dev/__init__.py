"""`make run`: the whole system on one machine, with demo.

May import: all of `gateway`.
"""
