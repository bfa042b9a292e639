"""The JSON of what the control routes answer: offers, and what an action was about. Pure."""

from __future__ import annotations

from sync.simulator.paddle.entities import Body
from sync.simulator.world.model import Subscription, Transaction
from sync.simulator.world.offers import Offer
from sync.simulator.world.turn import Outcome


def offer_shown(offer: Offer, kind: str) -> Body:
    """Return an offer as the control route shows it. `amount`: minor units; None if it has no price."""
    return {
        "kind": kind,
        "key": offer.key,
        "name": offer.name,
        "app": offer.app,
        "rank": offer.rank,
        "is_default": offer.is_default,
        "is_once": offer.is_once,
        "expires_s": offer.expires_s,
        "amount": offer.prices[0].amount if offer.prices else None,
    }


def subject_shown(outcome: Outcome) -> Body:
    """Return what an action was about: a subscription, and its newest payment if there was one, or a payment."""
    subject = outcome.subject
    if isinstance(subject, Subscription):
        about: Body = {"subscription_id": subject.id, "status": subject.status}
        paid = [event.data.id for event in outcome.events if isinstance(event.data, Transaction)]
        return about | ({"transaction_id": paid[-1]} if paid else {})
    world = outcome.world
    status = "refunded" if world.is_back(subject) else "partly refunded" if world.taken_back(subject) else "paid"
    return {"subscription_id": subject.subscription_id, "transaction_id": subject.id, "status": status}
