"""Pure values and rules of the servers: announcements, instants, errors, text for terminals.

May import: the standard library, orjson, `planwire_client.core`.
"""
