"""The rights that the store's user needs, and the ACL rules that it lacks.

Since Redis 7 a new user has no channels, and an application's user often lacks some commands. allowed.lua checks each
right without running the command. A server before Redis 7 cannot check; then every right counts as given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from sync.store.keys import Keys

ALLOWED_LUA = resources.files("sync.store").joinpath("scripts", "allowed.lua").read_text("utf-8")

KEYED = """
HSET K f v|HSETNX K f v|HDEL K f|HGET K f|HMGET K f|HGETALL K|HKEYS K|HVALS K|HLEN K|HINCRBY K f 1
LPUSH K v|LTRIM K 0 1|LRANGE K 0 1|XADD K * f v|XRANGE K - +|XREVRANGE K + -|XLEN K|XTRIM K MAXLEN 1|XDEL K 1-1
ZADD K 1 m|ZREM K m|ZSCORE K m|ZCARD K|ZRANGE K 0 1|ZRANGEBYSCORE K 0 1|ZRANGEBYLEX K - +
ZREMRANGEBYSCORE K 0 1|ZREMRANGEBYRANK K 0 1
SADD K m|SREM K m|SISMEMBER K m|SMEMBERS K|SRANDMEMBER K 1|SSCAN K 0
SET K v|GET K|DEL K|EXISTS K|EXPIRE K 1|PEXPIRE K 1|PERSIST K|PTTL K
EVAL s 1 K|EVALSHA s 1 K|GET D|SET D 1
"""
"""The commands on keys, of processes and scripts. K stands for a topic's key, D for `Keys.durable`."""

PLAIN = "PING|TIME"
PLAIN_DURABLE = ("WAITAOF", "1", "0", "1")
PLAIN_CLUSTER = "PING|TIME|CLUSTER SLOTS|CLUSTER INFO|ASKING"

CHANNELED = "PUBLISH C m|SUBSCRIBE C|UNSUBSCRIBE C|SUBSCRIBE G"
CHANNELED_CLUSTER = "SPUBLISH C m|SSUBSCRIBE C|SUNSUBSCRIBE C"
"""The commands on channels. C is a topic's channel, G the channel of all gateways. Unsubscribing needs no right."""

NAMED_MAX = 12
"""Maximum rules in an error's text."""

Command = tuple[str, ...]


def commands(keys: Keys, *, is_cluster: bool = False, durable: bool = False) -> list[Command]:
    """Return every command that the store's user needs, each with complete arguments."""
    names = {"K": keys.snap("probe:rights"), "D": keys.durable}
    names |= {"C": keys.channel("probe:rights"), "G": keys.control_channel}
    texts = [KEYED, CHANNELED_CLUSTER if is_cluster else CHANNELED, PLAIN_CLUSTER if is_cluster else PLAIN]
    found = [command for text in texts for command in _split(text)]
    if durable:
        found.append(PLAIN_DURABLE)
    return [tuple(names.get(word, word) for word in command) for command in found]


def _split(text: str) -> list[Command]:
    return [tuple(command.split()) for line in text.strip().splitlines() for command in line.split("|")]


_ON_KEYS = frozenset(command[0] for command in _split(KEYED))
_ON_CHANNELS = frozenset(("PUBLISH", "SUBSCRIBE", "SPUBLISH", "SSUBSCRIBE"))


def missing_rules(keys: Keys, asked: Sequence[Command], allowed: Sequence[bool]) -> list[str]:
    """Return the missing ACL rules in a server's syntax: `&pw:*`, `~pw:*`, `+zadd`.

    Args:
        keys: the names of the installation's keys and channels.
        asked: the result of `commands`.
        allowed: for each command, whether the user may run it.
    """
    pairs = list(zip(asked, allowed, strict=True))
    rules: list[str] = []
    # If no command on keys is allowed, the rule for the keys is missing; so it is with channels.
    for pattern, names in ((f"~{keys.prefix}:*", _ON_KEYS), (f"&{keys.scope}:*", _ON_CHANNELS)):
        if not any(is_allowed for command, is_allowed in pairs if command[0] in names):
            rules.append(pattern)
            pairs = [(command, is_allowed) for command, is_allowed in pairs if command[0] not in names]
    for command, is_allowed in pairs:
        if not is_allowed:
            rules.append("+" + "|".join(command[:2] if command[0] == "CLUSTER" else command[:1]).lower())
    return list(dict.fromkeys(rules))


async def missing(server: Redis, keys: Keys, *, is_cluster: bool = False, durable: bool = False) -> list[str]:
    """Return the ACL rules that the user of this connection lacks; none if the server cannot check.

    Raises:
        redis.exceptions.ConnectionError: the server is unreachable.
    """
    asked = commands(keys, is_cluster=is_cluster, durable=durable)
    try:
        reply: Any = await cast(Any, server).execute_command("EVAL", ALLOWED_LUA, 0, orjson.dumps(asked))
    except NoPermissionError as error:
        named = re.search(r"'([a-z|]+)' command", str(error))
        return [f"+{named[1] if named else 'eval'}"]
    except ResponseError:
        return []
    return missing_rules(keys, asked, [bool(one) for one in reply]) if len(reply) == len(asked) else []


def sentence(rules: Sequence[str]) -> str:
    """Return a sentence about the missing rules, for the operator."""
    named = " ".join(rules[:NAMED_MAX]) + (f" and {len(rules) - NAMED_MAX} more" if len(rules) > NAMED_MAX else "")
    kinds = {"&": "channels", "~": "keys", "+": "commands"}
    of = ", ".join(dict.fromkeys(kinds[rule[0]] for rule in rules))
    return f"the store's ACL user lacks rights to {of}: add {named} (the whole rule: docs/stores.md)"
