"""Torture for a webhook receiver: scenario files, and what they send. The scenarios that come along are here."""
