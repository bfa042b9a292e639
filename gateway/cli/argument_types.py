"""Types of arguments. Each returns the value, or fails with one line before anything is sent."""

from __future__ import annotations

import sys

import click


def topic_name(text: str) -> str:
    """Return the name of the topic `text`, which may be in its readable form."""
    from planwire_client.core.topic import TopicError, read_topic

    try:
        return str(read_topic(text))
    except TopicError as error:
        raise click.BadParameter(str(error)) from error


def tenant_name(text: str) -> str:
    """Return the topic's name for a topic or a tenant's id: tenant:acme for acme. An id with a colon needs its kind."""
    return topic_name(text if ":" in text else f"tenant:{text}")


def json_value(text: str) -> tuple[object]:
    """Return the decoded JSON in `text`; `-` reads standard input. It is in a tuple, because the value may be None."""
    import orjson

    from planwire_client.core import canonical_json

    encoded = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        decoded = canonical_json.parse(encoded)
        orjson.dumps(decoded)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from error
    except TypeError as error:
        raise click.BadParameter(f"cannot be sent: {error}; send an integer beyond 64 bits as a string") from error
    return (decoded,)
