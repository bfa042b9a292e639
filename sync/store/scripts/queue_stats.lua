-- Return the length of a delayed queue, and for how long its first member has been due.
--
-- KEYS[1] due     sorted set: member -> microseconds when it is due
--
-- Returns {members, microseconds}; 0 microseconds if nothing is due.
--
-- Gateways of the build before b71a029's successor write seconds: scores below 10^12. Delete that branch with them.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local due = first and tonumber(first) or now
if due < 1000000000000 then
  due = due * 1000000
end
return {redis.call('ZCARD', KEYS[1]), string.format('%.0f', math.max(0, now - due))}
