-- Make a claimed event due at another time than the end of its lease.
--
-- KEYS[1] event     hash, see inbox_put.lua
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt, or when its claim ends
--
-- ARGV[1] event_id
-- ARGV[2] due_us    decimal microseconds
-- ARGV[3] claim     the caller's claim; empty for none
-- ARGV[4] counts    '1': the attempt has failed; empty: it does not count
--
-- Returns 1, or 0 if another has the claim now.

if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'claim') ~= ARGV[3] then
  return 0
end
redis.call('ZADD', KEYS[2], 'XX', ARGV[2], ARGV[1])
if ARGV[4] == '' and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'tries', 0)
end
return 1
