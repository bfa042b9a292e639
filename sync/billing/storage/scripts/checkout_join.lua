-- Store what one event knows of a checkout, and return what all have stored: its subscription, and the tenants it names.
--
-- KEYS[1] checkout   hash. subscription: the one that it made. signed_checkout, checkout: "ORDER TENANT", the oldest name,
--                    whichever event came first
--
-- ARGV[1] field
-- ARGV[2] value
-- ARGV[3] ttl        seconds
--
-- Returns {subscription or empty, signed_checkout or empty, checkout or empty}.

local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or (ARGV[1] ~= 'subscription' and ARGV[2] < stored) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'subscription', 'signed_checkout', 'checkout')
return {known[1] or '', known[2] or '', known[3] or ''}
