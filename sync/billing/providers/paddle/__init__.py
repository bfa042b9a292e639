"""Paddle Billing: its webhooks (pure) and its API client."""
