"""Billing in the shadow of an entitlement system that exists: the comparison with it, the switches, and the report.

A tenant in the shadow has all its facts; its state is stored beside what readers see (`storage.tenants.is_shadow`).
May import: the modules of `services`, as `events` may; of the folders nothing. `queues` imports `wiring`.
"""
