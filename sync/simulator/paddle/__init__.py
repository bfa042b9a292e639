"""How the simulated provider looks from outside: Paddle's API and signed webhooks. Pure."""
