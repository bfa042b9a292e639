"""Stress tests for a webhook receiver: scenario files, their scripts, and the sender. Bundled scenarios are here."""
