-- Begin the processing of one claimed event: count an attempt, renew the lease, and note whose claim it is.
--
-- KEYS[1] event     hash, see inbox_put.lua
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt, or when its claim ends
--
-- ARGV[1] event_id
-- ARGV[2] lease      the member's score from the claim; empty if the caller has just released the event, or needs no claim
-- ARGV[3] lease_us
-- ARGV[4] claim      from now on, only who names it can end the claim
-- ARGV[5...]         names of fields
--
-- Returns the values of the fields; {} if the caller has lost the claim, or nothing is left to do.

local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if ARGV[2] ~= '' and (not score or tonumber(score) ~= tonumber(ARGV[2])) then
  return {}
end
local stored = redis.call('HMGET', KEYS[1], 'status', 'attempts', 'tries')
if not stored[1] or stored[1] == 'done' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {}
end
-- Not HINCRBY: a value that is no number must not be in the way.
redis.call('HSET', KEYS[1], 'attempts', (tonumber(stored[2]) or 0) + 1, 'tries', (tonumber(stored[3]) or 0) + 1,
  'claim', ARGV[4])
if score then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[1])
end
return redis.call('HMGET', KEYS[1], unpack(ARGV, 5))
