-- End a claim: the work is done, or the member is due again later, or it is parked. Only the claim's holder can do this.
--
-- KEYS[1] due        sorted set: member -> microseconds when it is due, or when its claim ends
-- KEYS[2] claims     hash: member -> "LEASE TOKEN GENERATION"
-- KEYS[3] attempts   hash: member -> attempts since its work was last done
-- KEYS[4] parked     hash: member -> JSON for people; a member stays in it until its work is done
--
-- ARGV[1] member
-- ARGV[2] lease   the member's score from the claim
-- ARGV[3] token   the claim's token
-- ARGV[4] how     'done'; 'later': not done, and the attempt does not count; 'failed'; 'parked'
-- ARGV[5] value   done: decimal microseconds when the member is due next, or empty for never
--                 later, failed: microseconds until the member is due again; parked: the JSON
-- ARGV[6] kept    parked: the attempts that count when it is queued again; else empty
--
-- Returns 1 if the caller still had the claim, else 0.

local member, how, value = ARGV[1], ARGV[4], ARGV[5]
local score = redis.call('ZSCORE', KEYS[1], member)
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
-- Without an entry the claim is lost too: requests since then have not been noted.
local lease, token, generation = string.match(redis.call('HGET', KEYS[2], member) or '', '^(%d+) (%S+) (%d+)$')
if not lease or tonumber(lease) ~= tonumber(score) or token ~= ARGV[3] then
  return 0
end
if how == 'parked' then
  redis.call('HSET', KEYS[4], member, value)
  redis.call('HSET', KEYS[3], member, ARGV[6])
end
redis.call('HDEL', KEYS[2], member)

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local function due(us)
  redis.call('ZADD', KEYS[1], string.format('%.0f', us), member)
end

if how == 'done' then
  redis.call('HDEL', KEYS[3], member)
  redis.call('HDEL', KEYS[4], member)
elseif how == 'later' then
  local attempts = (tonumber(redis.call('HGET', KEYS[3], member)) or 0) - 1
  if attempts > 0 then
    redis.call('HSET', KEYS[3], member, attempts)
  else
    redis.call('HDEL', KEYS[3], member)
  end
end

if how == 'later' or how == 'failed' then
  due(now + tonumber(value))
elseif tonumber(generation) > 0 then
  -- The member was scheduled during the claim, for a reason that the holder has not seen: it is due now.
  due(now)
elseif how == 'parked' or value == '' then
  redis.call('ZREM', KEYS[1], member)
else
  redis.call('ZADD', KEYS[1], value, member)
end
return 1
