"""The services of one process, wired together."""

from __future__ import annotations

from dataclasses import dataclass

from sync.billing.services.committer import Committer
from sync.billing.services.context import BillingContext
from sync.billing.services.events.checkouts import Checkouts
from sync.billing.services.events.ingest import Ingest
from sync.billing.services.events.resolve import TenantResolver
from sync.billing.services.move import Moves
from sync.billing.services.reproject import Reprojection
from sync.billing.services.shadow.comparisons import ShadowComparisons
from sync.billing.services.shadow.switches import ShadowSwitches
from sync.billing.services.tenants.erase import Erasure
from sync.billing.services.tenants.operator_links import OperatorLinks
from sync.billing.services.tenants.provider_queries import ProviderQueries
from sync.billing.services.tenants.reconcile import Reconciliation
from sync.billing.services.tenants.wakeup import Wakeup


@dataclass(eq=False, repr=False)
class BillingServices(BillingContext):
    """Billing on one store. One per process, shared by its tasks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.committer = Committer(self)
        self.moves = Moves(self, self.committer)
        self.resolver = TenantResolver(self, self.moves)
        self.ingest = Ingest(self, self.committer, self.moves, self.resolver)
        self.operator_links = OperatorLinks(self, self.committer, self.moves, self.ingest)
        self.reprojection = Reprojection(self, self.committer)
        self.provider_queries = ProviderQueries(self, self.reprojection, self.resolver)
        self.reconciliation = Reconciliation(self, self.reprojection, self.moves, self.provider_queries)
        self.checkouts = Checkouts(self, self.resolver, self.reprojection, self.ingest)
        self.wakeup = Wakeup(self, self.reprojection, self.reconciliation, self.provider_queries)
        self.erasure = Erasure(self, self.committer)
        self.shadow_comparisons = ShadowComparisons(self)
        self.shadow_switches = ShadowSwitches(self, self.committer)

    async def aclose(self) -> None:
        """Close the connections to the providers. The caller closes the store."""
        for client in self.clients.values():
            await client.aclose()
