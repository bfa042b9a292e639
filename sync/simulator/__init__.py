"""A local billing provider: keeps subscriptions, answers the official SDK's Paddle API calls, sends signed webhooks.

For development, the demo and tests. `world` is the pure core (state and action in, new state and events out), `paddle`
and `amounts` draw its entities in Paddle's shapes, `actions` is the control vocabulary, `courier` delivers, `app` is
the HTTP shell. Nothing in the production path imports this package.
"""
