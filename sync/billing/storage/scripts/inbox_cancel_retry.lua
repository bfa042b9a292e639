-- Let a parked event wait for what it waits on alone: nobody comes back to it by the clock any more.
--
-- KEYS[1] event     hash, as put.lua
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt
-- KEYS[3] waiting   sorted set, all scores 0: "WAITS_ON\nEVENT_ID"
--
-- ARGV[1] event_id
--
-- Returns 1 where it rests; 0 where it has been released meanwhile, and is whoever released it's to work on.

for line in string.gmatch(redis.call('HGET', KEYS[1], 'waits') or '', '[^\n]+') do
  if not redis.call('ZSCORE', KEYS[3], line .. '\n' .. ARGV[1]) then
    return 0
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
