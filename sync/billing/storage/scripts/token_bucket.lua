-- Take one token from a provider's rate limit, a token bucket that all processes share, by the store's clock.
--
-- KEYS[1] budget     hash: tokens (below 0: taken ahead), at_us
-- KEYS[2] away       exists while calls are paused because the provider was unreachable
-- KEYS[3] throttled  exists while calls are paused because the provider throttled
--
-- ARGV[1] rate_per_s
-- ARGV[2] burst      maximum number of tokens
-- ARGV[3] wanted     tokens that must be there: more than 1 leaves a reserve to others
-- ARGV[4] max_wait_us
--
-- Returns {'taken', wait_us}, or {'closed' | 'used_up', us until a token is available}.

local closed = math.max(redis.call('PTTL', KEYS[2]), redis.call('PTTL', KEYS[3]))
if closed > 0 then
  return {'closed', string.format('%.0f', closed * 1000)}
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at_us')
local tokens, at = tonumber(kept[1] or burst), tonumber(kept[2] or now)
-- After a failover the clock may be behind: then no time has passed.
tokens = math.min(burst, tokens + math.max(0, now - at) / 1000000 * rate)

local wait = math.max(0, (tonumber(ARGV[3]) - tokens) / rate * 1000000)
if wait > tonumber(ARGV[4]) then
  return {'used_up', string.format('%.0f', wait)}
end

-- Taken before the wait, so that the next caller waits behind this one.
tokens = tokens - 1
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at_us', string.format('%.0f', now))
-- A full bucket need not be stored.
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((burst - tokens) / rate * 1000) + 1000))
return {'taken', string.format('%.0f', wait)}
