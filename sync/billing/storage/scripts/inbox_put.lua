-- Store one event, once, before its delivery is answered, and claim it for the caller.
--
-- KEYS[1] event     hash: body, provider, type, received_us, claim, status, attempts, tries (attempts since the last
--                   end), outcome, reason, topic, version, waits
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt
--
-- ARGV[1] event_id
-- ARGV[2] body
-- ARGV[3] provider
-- ARGV[4] type
-- ARGV[5] received_us
-- ARGV[6] lease_us      length of the claim
-- ARGV[7] claim         id of this delivery, or empty: the same id again means that the first answer was lost
--
-- Returns {status, outcome, version, attempts, received_us}. status: 'claimed' (new, or its lease had expired),
-- 'pending' (another worker has it), 'parked' or 'done'; outcome and version are those of a done event; received_us is
-- the time of the first receipt.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local stored = redis.call('HMGET', KEYS[1], 'status', 'outcome', 'version', 'claim', 'received_us')

if not stored[1] then
  redis.call('HSET', KEYS[1], 'body', ARGV[2], 'provider', ARGV[3], 'type', ARGV[4], 'received_us', ARGV[5],
    'claim', ARGV[7], 'status', 'pending', 'attempts', 1)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[6])), ARGV[1])
  return {'claimed', '', '0', 1, ARGV[5]}
end

if stored[1] == 'pending' then
  local due = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0')
  local is_mine = ARGV[7] ~= '' and ARGV[7] == stored[4]
  if due > now and not is_mine then
    return {'pending', '', '0', 0, stored[5]}
  end
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[6])), ARGV[1])
  redis.call('HSET', KEYS[1], 'claim', ARGV[7])
  return {'claimed', '', '0', redis.call('HINCRBY', KEYS[1], 'attempts', 1), stored[5]}
end

return {stored[1], stored[2] or '', stored[3] or '0', 0, stored[5]}
