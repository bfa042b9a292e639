"""The public names of the package. `planwire_client` imports them on first use."""

from planwire_client.change import Outcome as Outcome, Publish as Publish, Published as Published, Rejected as Rejected
from planwire_client.core.commit import Verdict as Verdict
from planwire_client.core.headers import (
    VERSION_HEADER as VERSION_HEADER,
    read_version as read_version,
    write_version as write_version,
)
from planwire_client.core.reference import tenant_reference as tenant_reference
from planwire_client.core.topic import TopicError as TopicError, topic as topic
from planwire_client.delivery import Retries as Retries
from planwire_client.errors import (
    FeatureDenied as FeatureDenied,
    NotCurrent as NotCurrent,
    PlanwireError as PlanwireError,
    PublishRefused as PublishRefused,
    RateLimited as RateLimited,
    ReplicaClosed as ReplicaClosed,
    ReplicaError as ReplicaError,
    TopicRefused as TopicRefused,
    Unavailable as Unavailable,
    UsageDenied as UsageDenied,
    UsageRefused as UsageRefused,
    UsageUnavailable as UsageUnavailable,
)
from planwire_client.meter_usage import Credit as Credit, MeterUsage as MeterUsage
from planwire_client.publisher import AsyncPublisher as AsyncPublisher, Publisher as Publisher
from planwire_client.replica.replica import Replica as Replica, Status as Status
from planwire_client.replica.snapshot import Policy as Policy, Snapshot as Snapshot
from planwire_client.replica.thread import ThreadReplica as ThreadReplica
from planwire_client.usage.answers import Counted as Counted
from planwire_client.usage.attempts import OnUnavailable as OnUnavailable
from planwire_client.usage.calls import UsageCall as UsageCall
from planwire_client.usage.client import AsyncUsage as AsyncUsage, TenantUsage as TenantUsage, Usage as Usage
from planwire_client.usage.reservation import AsyncReservation as AsyncReservation, Reservation as Reservation
