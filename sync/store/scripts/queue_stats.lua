-- How many members a sorted set of instants has, and for how long the first of them has been due.
--
-- KEYS[1] due     sorted set: member -> microseconds when it is due, or seconds: what is below 10^12
--
-- Returns {members, microseconds}: 0 where nothing is due.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local due = first and tonumber(first) or now
if due < 1000000000000 then
  due = due * 1000000
end
return {redis.call('ZCARD', KEYS[1]), string.format('%.0f', math.max(0, now - due))}
