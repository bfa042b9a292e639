"""One version of a topic's state, and the decision whether it allows a feature. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from planwire_client.errors import FeatureDenied, NotCurrent


class Policy(StrEnum):
    """What a check does when the local snapshot cannot be proved to be the newest.

    FAIL_CLOSED allows only if the feature is proved to be allowed. FAIL_OPEN denies only if it is proved to be denied.
    LAST_KNOWN uses the local snapshot, however old, if it has the required version; without one it denies.
    """

    FAIL_CLOSED = "fail_closed"
    FAIL_OPEN = "fail_open"
    LAST_KNOWN = "last_known"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a topic's public state. All readers share it: do not change its contents.

    Attributes:
        version: microseconds since 1970; 0 if the topic has no state.
        state: JSON values; usually an object; None if the topic has no state.
        cause: the cause from the gateway; may be empty.
    """

    topic: str
    version: int
    state: object
    cause: Mapping[str, str] = field(default_factory=dict)

    def within(self, app: str) -> Snapshot | None:
        """Return the same snapshot with the state of one application of the tenant; None if the state has none."""
        apps = self.state.get("apps") if isinstance(self.state, dict) else None
        if not isinstance(apps, dict) or app not in apps:
            return None
        return Snapshot(self.topic, self.version, apps[app], self.cause)

    def _member(self, group: str, name: str) -> object:
        members = self.state.get(group) if isinstance(self.state, dict) else None
        return members.get(name) if isinstance(members, dict) else None

    def has(self, feature: str) -> bool:
        """Return whether the feature is true in the entitlements."""
        return self._member("features", feature) is True

    def limit(self, name: str) -> float | None:
        """Return a limit: infinity for "unlimited"; None if it is missing."""
        value = self._member("limits", name)
        if value == "unlimited":
            return float("inf")
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


Changed = Callable[[Snapshot, Snapshot | None], None]
"""Called with each new snapshot and the previous one (None at first)."""


def decide(
    topic: str,
    snapshot: Snapshot | None,
    is_fresh: bool,
    feature: str,
    min_version: int,
    policy: Policy,
    app: str = "",
) -> Snapshot | None:
    """Return the snapshot that allows the feature; None if FAIL_OPEN allows it without one.

    Args:
        app: the application that must have it; "" for any. A state without the application says nothing of it.

    Raises:
        FeatureDenied: the state does not have the feature, and the policy trusts the state.
        NotCurrent: the policy does not allow the feature without a current snapshot.
    """
    version = snapshot.version if snapshot is not None else 0
    part = snapshot.within(app) if snapshot is not None and app else snapshot
    reason = "unknown" if snapshot is None else "behind" if version < min_version else "" if is_fresh else "stale"
    if not reason and part is None and snapshot is not None and snapshot.state is not None:
        reason = "no_app"
    if not reason or (policy is Policy.LAST_KNOWN and reason == "stale"):
        assert snapshot is not None, "a reason would say unknown"
        if part is not None and part.has(feature):
            return snapshot
        raise FeatureDenied(topic, f"{app}: {feature}" if app else feature, version)
    if policy is Policy.FAIL_OPEN:
        return snapshot
    raise NotCurrent(topic, reason, version)
