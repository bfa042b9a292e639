-- Give a lease back; nothing, if it is another's.
--
-- KEYS[1] lease   string: the holder's token
--
-- ARGV[1] token
--
-- Returns 1 where it was the caller's, else 0.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
