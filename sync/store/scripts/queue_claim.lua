-- Claim due members of a delayed queue: no other worker gets them until the lease ends.
--
-- KEYS[1] due      sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims   hash: member -> "LEASE TOKEN GENERATION"; left out for a queue without tokens
--
-- ARGV[1] lease_us
-- ARGV[2] count    maximum number of members
-- ARGV[3] token    token of these claims; no blanks
--
-- Returns {lease, member...}: the new score of the claimed members, and the members, the most overdue first.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local lease = string.format('%.0f', now + tonumber(ARGV[1]))
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
for _, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], lease, member)
  if KEYS[2] then
    redis.call('HSET', KEYS[2], member, lease .. ' ' .. ARGV[3] .. ' 0')
  end
end
if KEYS[2] and #members > 0 then
  -- Twice the lease, so longer than any claim: entries of crashed workers expire if nothing is claimed for this time.
  redis.call('PEXPIRE', KEYS[2], string.format('%.0f', math.ceil(tonumber(ARGV[1]) / 500)))
end
table.insert(members, 1, lease)
return members
