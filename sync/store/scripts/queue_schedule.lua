-- Schedule members of a delayed queue. A claimed member keeps its claim; its generation is raised, so that it is due at
-- once when the claim ends.
--
-- KEYS[1] due      sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims   hash: member -> "LEASE TOKEN GENERATION"
--
-- ARGV[1] due      decimal microseconds, or empty for now
-- ARGV[2] mode     NX: a member in the queue keeps its time; LT: the earlier time counts
-- ARGV[3...]       members
--
-- Returns the number of claimed members.

local due = ARGV[1]
if due == '' then
  local time = redis.call('TIME')
  due = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
end

local claimed = 0
for index = 3, #ARGV do
  local member = ARGV[index]
  local score = redis.call('ZSCORE', KEYS[1], member)
  local entry = score and redis.call('HGET', KEYS[2], member)
  local lease, token, generation = string.match(entry or '', '^(%d+) (%S+) (%d+)$')
  -- A different score means: the claim has ended, or a worker of the build before has claimed the member since.
  if lease and tonumber(lease) == tonumber(score) then
    redis.call('HSET', KEYS[2], member, lease .. ' ' .. token .. ' ' .. string.format('%.0f', generation + 1))
    claimed = claimed + 1
  else
    redis.call('ZADD', KEYS[1], ARGV[2], due, member)
  end
end
return claimed
