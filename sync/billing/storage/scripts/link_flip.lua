-- Give a subscription to a tenant, if its link has not changed since it was read.
--
-- KEYS[1] link    KEYS[2] names   see link_name.lua
--
-- ARGV[1] revision    of the link that was read
-- ARGV[2] tenant
-- ARGV[3] strength    guess or operator, to store the name; empty: the name is stored
-- ARGV[4] overruled   with an operator's name: the metadata's tenant that it overrules, or empty; "*": not known
--
-- Returns 1, or 0 if the link has changed.

local link = redis.call('GET', KEYS[1])
if (redis.call('HGET', KEYS[2], 'revision') or '0') ~= ARGV[1] or (link == '!erased' and ARGV[3] ~= 'operator') then
  return 0
end
if link == '!erased' then
  link = nil -- an operator lets it count again
end
if link and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'metadata', '0 ' .. link)
end
redis.call('HINCRBY', KEYS[2], 'revision', 1)
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
if ARGV[3] == 'operator' then
  redis.call('HSET', KEYS[2], 'overruled', ARGV[4])
  redis.call('HDEL', KEYS[2], 'linked', 'overruled_order')
  if ARGV[4] == '*' then
    redis.call('HSET', KEYS[2], 'linked', string.format('%017.0f', now) .. '000') -- nanoseconds, as in `order_key`
  end
end
if link ~= ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2])
  if link then
    local moved = tonumber(redis.call('HGET', KEYS[2], 'moved_us') or '0')
    local at = string.format('%.0f', math.max(now, moved + 1))
    redis.call('HSET', KEYS[2], 'moved_us', at, 'left:' .. at, link)
  end
end
return 1
