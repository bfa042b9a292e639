"""Entitlements: billing events in, each tenant's plan, limits and modules out. Stands on `sync.state` alone."""
