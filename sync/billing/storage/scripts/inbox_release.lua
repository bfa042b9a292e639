-- Make the parked events that wait on one thing pending, under the caller's lease.
--
-- KEYS[1] pending   sorted set: event id -> microseconds of the next attempt
-- KEYS[2] waiting   sorted set, all scores 0: "WAITS_ON\nEVENT_ID"
--
-- ARGV[1] waits_on
-- ARGV[2] lease_us
-- ARGV[3] count      maximum number of events
--
-- Returns the event ids.

local prefix = ARGV[1] .. '\n'
local members = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '(' .. ARGV[1] .. '\v', 'LIMIT', 0, ARGV[3])
local time = redis.call('TIME')
local lease = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(ARGV[2]))
local ids = {}
for _, member in ipairs(members) do
  local id = string.sub(member, #prefix + 1)
  redis.call('ZADD', KEYS[1], lease, id)
  redis.call('ZREM', KEYS[2], member)
  table.insert(ids, id)
end
return ids
