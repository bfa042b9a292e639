-- Commit one change of one topic: dedupe, order check, compare-and-set, write, history, announce. Atomic, one slot.
--
-- KEYS[1] snap   hash: version, state, private, digest, order, cause
-- KEYS[2] log    stream, newest ~200 versions: version, state, cause
-- KEYS[3] seen   sorted set: event id -> microseconds when first committed, 7 days
--
-- ARGV[1] announce     PUBLISH, or SPUBLISH on Cluster
-- ARGV[2] channel      the topic's Redis channel
-- ARGV[3] state        canonical JSON, public
-- ARGV[4] private      canonical JSON, or empty
-- ARGV[5] event_id     or empty
-- ARGV[6] order        token compared bytewise, or empty
-- ARGV[7] if_version   decimal, or empty
-- ARGV[8] cause        JSON, or empty
-- ARGV[9] patch        "BASE PATCH": the version it starts from and an RFC 7396 merge patch, or empty
--
-- Returns {verdict, version}: the verdict and the topic's version after the call, as a decimal string ("0": none).
-- A third member is there only if what was committed could not be announced: the error, as text.
--
-- Numbers are doubles here: exact up to 2^53, but tostring() would write 1.79e+15, hence %.0f.

local SEEN_US = 7 * 24 * 3600 * 1000000
local LOG_LENGTH = 200
local STEP_US = 10000

-- Lua's own < goes by the server's LC_COLLATE, in which most languages have "a" before "B".
local function is_after(a, b)
  for index = 1, math.min(#a, #b) do
    local x, y = a:byte(index), b:byte(index)
    if x ~= y then
      return x > y
    end
  end
  return #a > #b
end

local stored = redis.call('HMGET', KEYS[1], 'version', 'digest', 'order')
local version = tonumber(stored[1] or '0')
local current = string.format('%.0f', version)
local event_id, order = ARGV[5], ARGV[6]

-- 1. The same event again: its first commit stands.
if event_id ~= '' and redis.call('ZSCORE', KEYS[3], event_id) then
  return {'duplicate', current}
end

-- 2. Compare-and-set.
if ARGV[7] ~= '' and ARGV[7] ~= current then
  return {'conflict', current}
end

-- 3. Older than, or as old as, what is stored.
if order ~= '' and stored[3] and not is_after(order, stored[3]) then
  return {'stale', current}
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function remember()
  if event_id ~= '' then
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - SEEN_US))
    redis.call('ZADD', KEYS[3], string.format('%.0f', now), event_id)
    redis.call('PEXPIRE', KEYS[3], string.format('%.0f', SEEN_US / 1000))
  end
  if order ~= '' then
    redis.call('HSET', KEYS[1], 'order', order)
  end
end

-- 4. Nothing new. The event id and the order token are remembered all the same: forgotten, a late retry of this
--    event, or an older one, would be applied over whatever comes next.
local digest = redis.sha1hex(ARGV[3] .. '\n' .. ARGV[4])
if digest == stored[2] then
  remember()
  return {'unchanged', current}
end

-- 5. The only place where a version is made: it strictly rises and tells its own age. With a clock that is behind, it
--    rises by some of the clock's digits: a store that has lost its newest versions must not make the same ones again.
version = now > version and now or version + 1 + now % STEP_US
local next_version = string.format('%.0f', version)
redis.call('HSET', KEYS[1], 'version', next_version, 'state', ARGV[3], 'private', ARGV[4], 'digest', digest, 'cause', ARGV[8])
remember()
redis.call('XADD', KEYS[2], 'MAXLEN', '~', LOG_LENGTH, '*', 'version', next_version, 'state', ARGV[3], 'cause', ARGV[8])

-- 6. Announce what was stored; the patch goes along only if it starts from what was stored before.
local base, patch = string.match(ARGV[9], '^(%d+) (.*)$')
if base ~= current then
  base, patch = '0', ''
end
-- Not redis.call: its error would be the answer, as if nothing had been committed. A user without rights to the channel
-- gets one, and what was written before it stands.
local announced = redis.pcall(ARGV[1], ARGV[2], next_version .. ' ' .. base .. ' ' .. #ARGV[8] .. ' ' .. #patch .. '\n' .. ARGV[8] .. patch .. ARGV[3])
return {'applied', next_version, type(announced) == 'table' and announced.err or nil}
