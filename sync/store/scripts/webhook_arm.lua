-- Note that topics are about to change, so that backends are told of it even if the caller crashes. All keys are in one
-- slot, which is not the topics'.
--
-- KEYS[1] soon    sorted set: topic -> microseconds when a worker looks at it
-- KEYS[2] late    sorted set: the same, for the second look
--
-- ARGV[1] soon    microseconds from now; a topic that is due earlier stays so
-- ARGV[2] late    microseconds from now, longer than any commit takes; the latest counts
-- ARGV[3...]      topics
--
-- A changed score ends a worker's claim (queue_ack.lua), so a change during the look is looked at again.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for index = 3, #ARGV do
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[index])
  redis.call('ZADD', KEYS[1], 'LT', string.format('%.0f', now + tonumber(ARGV[1])), ARGV[index])
end
return 0
