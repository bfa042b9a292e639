-- Note since when endpoints are told of changes, by the clock that also makes versions: a worker's clock may be ahead.
--
-- KEYS[1] since   hash: endpoint -> microseconds since 1970
--
-- ARGV[1...]      the endpoints of the setting; one that is noted stays so
--
-- Returns the hash.

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
for _, name in ipairs(ARGV) do
  redis.call('HSETNX', KEYS[1], name, now)
end
return redis.call('HGETALL', KEYS[1])
