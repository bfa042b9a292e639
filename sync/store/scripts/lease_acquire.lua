-- Take a free lease, or renew the caller's own.
--
-- KEYS[1] lease   string: the holder's token
--
-- ARGV[1] token   ARGV[2] length in milliseconds
--
-- Returns 1 if the caller has the lease now, 0 if another has it.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
