"""`make run`: the whole system on one machine, with a demo.

May import: all of `gateway`.
"""
