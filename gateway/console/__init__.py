"""The console: shows topics, gateways and tabs to developers and operators, and offers repairs. It observes the hub.

May import: all of `gateway` but `app`, `cli` and `dev`; of billing only types. The page's files are in `static/`.
"""
