-- End the processing of one event: it is done, or parked until what it waits on exists.
--
-- KEYS[1] event     hash, see inbox_put.lua
-- KEYS[2] pending   sorted set: event id -> microseconds of the next attempt
-- KEYS[3] parked    sorted set: event id -> microseconds when it was first parked
-- KEYS[4] waiting   sorted set, all scores 0: "WAITS_ON\nEVENT_ID"
--
-- ARGV[1] event_id
-- ARGV[2] outcome    of a done event, or 'parked'
-- ARGV[3] reason
-- ARGV[4] topic
-- ARGV[5] version
-- ARGV[6] waits      the things that it waits on, one per line; empty if done
-- ARGV[7] ttl_ms     how long a done event is kept
-- ARGV[8] body       empty: remove the body of a done event; a large one is removed in any case
-- ARGV[9] again_us   of a parked event: delay until one more retry, unless inbox_cancel_retry.lua comes first;
--                    empty: no retry
-- ARGV[10] claim     the caller's claim; empty for none
--
-- Returns 1 if the event is known and no other has claimed it since, else 0.

local BODY_KEPT_MAX = 65536

local stored = redis.call('HMGET', KEYS[1], 'status', 'waits', 'claim')
if not stored[1] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  return 0
end
if ARGV[10] ~= '' and stored[3] ~= ARGV[10] then
  return 0
end
local parked = ARGV[2] == 'parked'
if parked and stored[1] == 'done' then
  return 1 -- done by a newer claim, after this claim's lease expired
end

local function each(lines, act)
  for line in string.gmatch(lines, '[^\n]+') do
    act(line .. '\n' .. ARGV[1])
  end
end

-- 1. Write the result first: a store that is out of memory rejects this command, and then the event stays pending.
redis.call('HSET', KEYS[1], 'status', parked and 'parked' or 'done', 'outcome', ARGV[2], 'reason', ARGV[3],
  'topic', ARGV[4], 'version', ARGV[5], 'waits', ARGV[6], 'tries', 0)

-- 2. Remove what it waited on before.
each(stored[2] or '', function(member) redis.call('ZREM', KEYS[4], member) end)

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- 3. Remove it from the retry queue, unless it was parked before the link lookup was confirmed: then retry once.
if parked and ARGV[9] ~= '' then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[9])), ARGV[1])
else
  redis.call('ZREM', KEYS[2], ARGV[1])
end

-- 4. A parked event stays until it is used; a done one as long as the provider may send it again.
if parked then
  redis.call('ZADD', KEYS[3], 'NX', string.format('%.0f', now), ARGV[1])
  each(ARGV[6], function(member) redis.call('ZADD', KEYS[4], 0, member) end)
  redis.call('PERSIST', KEYS[1])
else
  redis.call('ZREM', KEYS[3], ARGV[1])
  if ARGV[8] == '' or #(redis.call('HGET', KEYS[1], 'body') or '') > BODY_KEPT_MAX then
    redis.call('HSET', KEYS[1], 'body', '')
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
end
return 1
