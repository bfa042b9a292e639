"""Pure values and rules that every part of both packages stands on: no I/O, no clock.

May import: the standard library and orjson.
"""
