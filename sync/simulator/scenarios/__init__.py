"""Torture for a webhook receiver: scenario files, their scripts, and what sends them. Bundled scenarios are here."""
