"""A local Paddle for development, the demo and tests: keeps subscriptions, answers API calls, sends signed webhooks.

`world` is the pure core, `paddle` its outside, `control` what a person makes happen. Production imports none of it.
"""
