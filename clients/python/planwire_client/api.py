"""The public names of the package, all in one place. `planwire_client` itself imports them on first use."""

from __future__ import annotations

from planwire_client.change import Outcome, Publish, Published, Rejected
from planwire_client.core.commit import Verdict
from planwire_client.core.headers import VERSION_HEADER, read_version, write_version
from planwire_client.delivery import Retries
from planwire_client.errors import (
    FeatureDenied,
    NotCurrent,
    PlanwireError,
    PublishRefused,
    RateLimited,
    ReplicaClosed,
    ReplicaError,
    TopicRefused,
    Unavailable,
)
from planwire_client.publisher import AsyncPublisher, Publisher
from planwire_client.replica.replica import Replica, Status
from planwire_client.replica.snapshot import Policy, Snapshot
from planwire_client.replica.thread import ThreadReplica

__all__ = [
    "VERSION_HEADER",
    "AsyncPublisher",
    "FeatureDenied",
    "NotCurrent",
    "Outcome",
    "PlanwireError",
    "Policy",
    "Publish",
    "PublishRefused",
    "Published",
    "Publisher",
    "RateLimited",
    "Rejected",
    "Replica",
    "ReplicaClosed",
    "ReplicaError",
    "Retries",
    "Snapshot",
    "Status",
    "ThreadReplica",
    "TopicRefused",
    "Unavailable",
    "Verdict",
    "read_version",
    "write_version",
]
