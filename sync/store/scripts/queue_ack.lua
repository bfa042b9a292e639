-- End a claim: set when the member is due next, or remove it. Only the claim's holder can do this.
--
-- KEYS[1] due      sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims   hash: member -> "LEASE TOKEN GENERATION"
--
-- ARGV[1] member
-- ARGV[2] lease    the member's score from the claim
-- ARGV[3] token    the claim's token
-- ARGV[4] next     if the work is done: decimal microseconds when the member is due next, or empty for never
-- ARGV[5] pause    if the work is not done: microseconds until the member is due again; otherwise empty
--
-- Returns 1 if the caller still had the claim, else 0.

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
  -- The member was scheduled during the claim, for a reason that the holder has not seen: it is due now.
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
elseif ARGV[4] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
end
return 1
