"""The problems that errors of billing are answered with."""

from __future__ import annotations

from typing import Final

from sync.billing.domain.outcome import ChangeRejected
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.storage.tenant_facts import FactsError
from sync.http.problem import FORESEEN, Errors, Problem
from sync.store.models import StoreError

RETRY_AFTER_S: Final = "5"
"""Seconds until a backend should try again while the store is away."""

ERRORS: Errors = {
    **FORESEEN,
    StoreError: lambda _: Problem(
        "store_unavailable", "the store did not answer", headers={"Retry-After": RETRY_AFTER_S}
    ),
    ChangeRejected: lambda error: Problem(error.code, error.detail),
    FactsError: lambda error: Problem("not_changed", str(error)),
    ProviderUnavailable: lambda error: Problem("provider_unavailable", str(error)),
    ProviderRejected: lambda error: Problem("provider_refused", str(error)),
}
