"""Planwire in a FastAPI application."""
