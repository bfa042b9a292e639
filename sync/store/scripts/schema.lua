-- Mark an installation's data with this build's format, unless the data needs a newer build.
--
-- KEYS[1] hash: format (the newest format written), needs (the oldest format that a build must understand)
-- KEYS[2] born    set once: the time, if there is no format yet, which means that the store is new, or has lost all
-- ARGV[1] format   the newest format that this build writes and understands
-- ARGV[2] needs    the format that another build must understand, at least, to work on this build's data
--
-- Returns the data's `needs`. If it is above ARGV[1], nothing was changed.

local stored = redis.call('HMGET', KEYS[1], 'format', 'needs')
local format, needs = tonumber(stored[1] or '0'), tonumber(stored[2] or '0')
if needs > tonumber(ARGV[1]) then
  return needs
end
if not stored[1] then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[2], time[1] .. string.format('%06d', time[2]), 'NX')
end
if tonumber(ARGV[1]) > format then
  redis.call('HSET', KEYS[1], 'format', ARGV[1])
end
if tonumber(ARGV[2]) > needs then
  redis.call('HSET', KEYS[1], 'needs', ARGV[2])
end
return needs
