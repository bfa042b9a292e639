-- Take an event whose record cannot be read out of the retry queue, and list it as parked.
--
-- KEYS[1] pending   sorted set: event id -> microseconds of the next attempt
-- KEYS[2] parked    sorted set: event id -> microseconds when it was first parked
--
-- ARGV[1] event_id
--
-- Returns 1.

local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'NX', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])), ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
