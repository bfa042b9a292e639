-- Put a tombstone on the link of a subscription, if it belongs to an erased tenant.
--
-- KEYS[1] link    KEYS[2] names   see link_name.lua
--
-- ARGV[1] tenant   the erased one
--
-- Returns 1 if the tombstone is there, 0 if the subscription belongs to another tenant.

local link = redis.call('GET', KEYS[1])
if link and link ~= ARGV[1] and link ~= '!erased' then
  return 0
end
redis.call('SET', KEYS[1], '!erased')
redis.call('DEL', KEYS[2])
return 1
