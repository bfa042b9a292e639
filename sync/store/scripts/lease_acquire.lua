-- Take a lease that is free, or renew one's own.
--
-- KEYS[1] lease   string: the holder's token
--
-- ARGV[1] token   ARGV[2] milliseconds
--
-- Returns 1 where the lease is the caller's now, 0 where it is another's.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
