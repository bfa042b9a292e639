-- Store what another entitlement system answered about a tenant, unless a newer answer is stored.
--
-- KEYS[1] answers   hash: topic -> "AT RECORD", AT in microseconds since 1970
-- ARGV[1] topic   ARGV[2] at   ARGV[3] record   JSON
--
-- Returns 1 if it is stored, else 0.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored and tonumber(string.match(stored, '^%d+')) > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1
