-- End the lease of a claimed member: set when it is due next, or remove it. Nothing, if another has claimed it since.
--
-- KEYS[1] due      sorted set: member -> microseconds when it is due
--
-- ARGV[1] member
-- ARGV[2] lease    the score that the claim gave it
-- ARGV[3] due      decimal microseconds, or empty for never
--
-- Returns 1 where the lease was still held, else 0.

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return 1
