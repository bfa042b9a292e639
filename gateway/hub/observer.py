"""Observers of the hub: callbacks on subscriptions and versions. The hub works the same without any.

An exception in an observer is logged, and delivery continues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVarTuple

from sync.process import logs

if TYPE_CHECKING:
    from gateway.hub.subscription import Subscription
    from gateway.hub.topic import LiveTopic

Ts = TypeVarTuple("Ts")

LOGGER = "gateway.hub.observer"


class HubObserver:
    """Base of observers: each method is called synchronously, must not wait, and does nothing unless overridden."""

    def subscription_opened(self, subscription: Subscription) -> None:
        """A socket has subscribed to a topic."""

    def subscription_closed(self, subscription: Subscription) -> None:
        """A socket has left a topic."""

    def version_applied(self, live: LiveTopic) -> None:
        """The topic was announced or read; its version may be unchanged."""

    def version_acked(self, subscription: Subscription) -> None:
        """The browser shows the version `subscription.acked`."""

    def version_nacked(self, subscription: Subscription, reason: str) -> None:
        """The browser could not use the version `subscription.nacked`; `reason` is its text, of limited length."""


class Observers:
    """The observers of one hub, called in the order in which they were added."""

    def __init__(self) -> None:
        self._all: tuple[HubObserver, ...] = ()

    def add(self, observer: HubObserver) -> None:
        """Call `observer` from now on. A second call does nothing."""
        if observer not in self._all:
            self._all = (*self._all, observer)

    def remove(self, observer: HubObserver) -> None:
        """Stop calling `observer`. A second call does nothing."""
        self._all = tuple(one for one in self._all if one is not observer)

    def call(self, event: Callable[[HubObserver, *Ts], None], *about: *Ts) -> None:
        """Call the method `event` of every observer."""
        for observer in self._all:
            try:
                getattr(observer, event.__name__)(*about)
            except Exception as error:
                logs.limited(LOGGER, "observer_failed", level="error", observer=type(observer).__name__, exc_info=error)
