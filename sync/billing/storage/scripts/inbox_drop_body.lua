-- Remove the body of a done event.
--
-- KEYS[1] event   hash, see inbox_put.lua
--
-- Returns 1 if there was one, else 0.

if redis.call('HGET', KEYS[1], 'status') ~= 'done' then
  return 0
end
redis.call('HSET', KEYS[1], 'body', '')
return 1
