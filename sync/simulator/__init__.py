"""A local Paddle for development, the demo and tests: keeps subscriptions, answers API calls, sends signed webhooks.

`world` is the pure core, `paddle` its API and webhooks, `scenarios` are stress tests for receivers. Production code
does not import this package.
"""
