-- Claim what is due in a sorted set: nobody else gets it until the lease has run out.
--
-- KEYS[1] due     sorted set: member -> microseconds when it is due
--
-- ARGV[1] lease_us
-- ARGV[2] count    at most
--
-- Returns {lease, member...}: the score that each claimed member has now, and the members, the most overdue first.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local lease = string.format('%.0f', now + tonumber(ARGV[1]))
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
for _, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], lease, member)
end
table.insert(members, 1, lease)
return members
