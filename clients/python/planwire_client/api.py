"""The public names of the package, all in one place. `planwire_client` itself imports them on first use."""

from planwire_client.change import Outcome as Outcome
from planwire_client.change import Publish as Publish
from planwire_client.change import Published as Published
from planwire_client.change import Rejected as Rejected
from planwire_client.core.commit import Verdict as Verdict
from planwire_client.core.headers import VERSION_HEADER as VERSION_HEADER
from planwire_client.core.headers import read_version as read_version
from planwire_client.core.headers import write_version as write_version
from planwire_client.delivery import Retries as Retries
from planwire_client.errors import FeatureDenied as FeatureDenied
from planwire_client.errors import NotCurrent as NotCurrent
from planwire_client.errors import PlanwireError as PlanwireError
from planwire_client.errors import PublishRefused as PublishRefused
from planwire_client.errors import RateLimited as RateLimited
from planwire_client.errors import ReplicaClosed as ReplicaClosed
from planwire_client.errors import ReplicaError as ReplicaError
from planwire_client.errors import TopicRefused as TopicRefused
from planwire_client.errors import Unavailable as Unavailable
from planwire_client.publisher import AsyncPublisher as AsyncPublisher
from planwire_client.publisher import Publisher as Publisher
from planwire_client.replica.replica import Replica as Replica
from planwire_client.replica.replica import Status as Status
from planwire_client.replica.snapshot import Policy as Policy
from planwire_client.replica.snapshot import Snapshot as Snapshot
from planwire_client.replica.thread import ThreadReplica as ThreadReplica
