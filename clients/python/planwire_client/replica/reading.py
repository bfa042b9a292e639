"""Reads of what a replica holds: they never wait, and may be called from any thread."""

from __future__ import annotations

from collections.abc import Mapping

from planwire_client.errors import TopicRefused
from planwire_client.replica.snapshot import Policy, Snapshot, decide
from planwire_client.replica.topic_state import TopicState


class Reading:
    """What `Replica` and `ThreadReplica` have in common."""

    _states: Mapping[str, TopicState]

    def get(self, topic: str) -> Snapshot | None:
        """Return the newest snapshot held, however old; None where none is. `is_fresh` tells more."""
        state = self._states.get(topic)
        return state.snapshot if state is not None else None

    def is_fresh(self, topic: str) -> bool:
        """Return whether what is held of `topic` is proved to be the newest, as of now."""
        state = self._states.get(topic)
        return state is not None and state.is_fresh

    def require(
        self, topic: str, feature: str, *, min_version: int = 0, policy: Policy = Policy.FAIL_CLOSED
    ) -> Snapshot | None:
        """Return the snapshot that allows `feature`; None only where FAIL_OPEN lets pass with nothing held.

        min_version: what the caller is known to have seen already; anything older proves nothing.

        Raises:
            FeatureDenied: the state does not have the feature.
            NotCurrent: it cannot be said, and the policy does not let that pass. `ensure` waits instead.
            TopicRefused: the token does not open the topic; whatever the policy.
        """
        state = self._states.get(topic)
        if state is None:
            return decide(topic, None, False, feature, min_version, policy)
        if state.refused:
            raise TopicRefused(topic, state.refused)
        snapshot = state.snapshot
        # What nearly every call ends with, whatever its policy: said without the way through `decide`.
        if snapshot is not None and snapshot.version >= min_version and state.is_fresh and snapshot.has(feature):
            return snapshot
        return decide(topic, snapshot, state.is_fresh, feature, min_version, policy)
