-- Note what was delivered of a topic to an endpoint, unless the topic was erased meanwhile.
--
-- KEYS[1] snap        the topic's snapshot
-- KEYS[2] delivered   hash: endpoint -> version; "endpoint:reached" -> id of a threshold
--
-- ARGV[1] field   ARGV[2] value
--
-- Returns 1 if it was noted.

if redis.call('HGET', KEYS[1], 'erased') then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
