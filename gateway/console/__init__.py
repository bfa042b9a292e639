"""The console: what a developer or operator sees of topics, gateways and tabs, and the little that they may do there.

The page's own files lie beside the modules that answer it. `routes.py` is where it is mounted.
"""
