"""Polar: its webhooks and subscription (pure), its API client, and `spec`, which the registry lists."""
