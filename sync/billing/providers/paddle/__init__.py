"""Paddle Billing: its webhooks (pure), its API client, and `spec`, which the registry lists."""
