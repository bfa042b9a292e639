-- Begin the work on a claimed member: count an attempt and renew the lease. Only the claim's holder can do this.
--
-- KEYS[1] due        sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims     hash: member -> "LEASE TOKEN GENERATION"
-- KEYS[3] attempts   hash: member -> attempts since its work was last done
--
-- ARGV[1] member
-- ARGV[2] lease      the member's score from the claim
-- ARGV[3] token      the claim's token
-- ARGV[4] lease_us
--
-- Returns {lease, attempts}: the new score, and the attempts with this one; {} if the caller has lost the claim.

local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local lease, token = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+) (%S+) %d+$')
if not score or tonumber(score) ~= tonumber(ARGV[2]) or tonumber(lease) ~= tonumber(score) or token ~= ARGV[3] then
  return {}
end

-- First, so that a store without memory changes nothing. Not HINCRBY: a value that is no number must not be in the way.
local attempts = (tonumber(redis.call('HGET', KEYS[3], ARGV[1])) or 0) + 1
redis.call('HSET', KEYS[3], ARGV[1], attempts)

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local renewed = string.format('%.0f', now + tonumber(ARGV[4]))
redis.call('ZADD', KEYS[1], renewed, ARGV[1])
-- Generation 0: the work that begins now serves the requests so far.
redis.call('HSET', KEYS[2], ARGV[1], renewed .. ' ' .. ARGV[3] .. ' 0')
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', math.ceil(tonumber(ARGV[4]) / 500)))
return {renewed, attempts}
