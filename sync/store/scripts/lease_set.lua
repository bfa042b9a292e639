-- Set a key if the caller has a lease: a process that was paused must not undo what its successor has written.
--
-- KEYS[1] lease   string: the holder's token
-- KEYS[2] key
--
-- ARGV[1] token   ARGV[2] value
--
-- Returns 1 if the caller has the lease, else 0.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
