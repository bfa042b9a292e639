"""A local Paddle for development, the demo and tests: keeps subscriptions, answers API calls, sends signed webhooks.

`world` is the pure core, `paddle` its outside, `scenarios` torture for receivers. Production imports none of it.
"""
