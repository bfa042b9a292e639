-- Release a lease if the caller has it.
--
-- KEYS[1] lease   string: the holder's token
--
-- ARGV[1] token
--
-- Returns 1 if the caller had it, else 0.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
