-- End a claim: set when the member is due next, or remove it. Only its holder can.
--
-- KEYS[1] due      sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims   hash: member -> "LEASE TOKEN GENERATION"
--
-- ARGV[1] member
-- ARGV[2] lease    the score that the claim gave it
-- ARGV[3] token    the claim's
-- ARGV[4] next     the work is done: decimal microseconds when the member is due next, or empty for never
-- ARGV[5] pause    the work is not done: the member is due again in so many microseconds; empty where it is
--
-- Returns 1 where the claim was still the caller's, else 0.

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
local lease, token, generation = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) (%S+) (%d+)$')
if lease and tonumber(lease) == tonumber(score) and token ~= ARGV[3] then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[5])), ARGV[1])
elseif lease and tonumber(generation) > 0 then
  -- Scheduled during the claim: by what the holder has not seen yet.
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
elseif ARGV[4] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
end
return 1
