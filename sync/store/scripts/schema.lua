-- Mark an installation's data with the format that this build writes, unless a newer one needs more than it understands.
--
-- KEYS[1] hash: format (the newest that was written), needs (the oldest that a build must understand)
-- ARGV[1] format   the newest that this build writes and understands
-- ARGV[2] needs    the oldest that a build must understand that works on what this one writes
--
-- Returns the stored `needs`: above ARGV[1] nothing was changed.

local stored = redis.call('HMGET', KEYS[1], 'format', 'needs')
local format, needs = tonumber(stored[1] or '0'), tonumber(stored[2] or '0')
if needs > tonumber(ARGV[1]) then
  return needs
end
if tonumber(ARGV[1]) > format then
  redis.call('HSET', KEYS[1], 'format', ARGV[1])
end
if tonumber(ARGV[2]) > needs then
  redis.call('HSET', KEYS[1], 'needs', ARGV[2])
end
return needs
