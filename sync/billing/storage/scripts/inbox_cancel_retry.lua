-- Remove a parked event from the retry queue: from now on only what it waits on releases it.
--
-- KEYS[1] event     hash, see inbox_put.lua
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt
-- KEYS[3] waiting   sorted set, all scores 0: "WAITS_ON\nEVENT_ID"
--
-- ARGV[1] event_id
--
-- Returns 1 if removed; 0 if another worker has released (and now owns) it.

for line in string.gmatch(redis.call('HGET', KEYS[1], 'waits') or '', '[^\n]+') do
  if not redis.call('ZSCORE', KEYS[3], line .. '\n' .. ARGV[1]) then
    return 0
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
