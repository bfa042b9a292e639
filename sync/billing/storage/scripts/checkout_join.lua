-- Store what one event knows of a checkout, and return what all have stored: its subscription, and the tenants it names.
--
-- KEYS[1] checkout   hash. subscription: the one that it made. "signed_checkout ORDER", "checkout ORDER": a tenant that it
--                    names, by the order of the event
--
-- ARGV[1] field
-- ARGV[2] value
-- ARGV[3] ttl        seconds
--
-- Returns the fields and values.

redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return redis.call('HGETALL', KEYS[1])
