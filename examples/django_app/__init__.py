"""Planwire in a Django project."""
