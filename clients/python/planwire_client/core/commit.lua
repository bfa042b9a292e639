-- Commit one change of one topic: dedupe, order check, compare-and-set, write, history, announce. Atomic, one slot.
--
-- KEYS[1] snap   hash: version, rev, owner, state, private, digest, order, cause, erased
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
-- ARGV[10] owner       "billing" or "publisher": who computes this state
-- ARGV[11] erased      "1" when this commit erases the topic, or empty
-- ARGV[12] if_rev      decimal, or empty
--
-- Returns {verdict, version, rev}: the verdict, and the topic's version and rev after the call, as decimal strings
-- ("0": none).
-- A fourth member is there only if what was committed could not be announced: the error, as text.
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

local stored = redis.call('HMGET', KEYS[1], 'version', 'digest', 'order', 'rev', 'owner', 'erased')
local version = tonumber(stored[1] or '0')
-- Builds from before `rev` raise the version alone; so the larger of the two rises with every commit of any build.
local rev = math.max(version, tonumber(stored[4] or '0'))
local current, current_rev = string.format('%.0f', version), string.format('%.0f', rev)
local event_id, order, owner = ARGV[5], ARGV[6], ARGV[10]

-- 1. The same event again: its first commit stands.
if event_id ~= '' and redis.call('ZSCORE', KEYS[3], event_id) then
  return {'duplicate', current, current_rev}
end

-- 2. Billing computes this topic: a publish would erase its facts.
if stored[5] == 'billing' and owner ~= 'billing' then
  return {'billed', current, current_rev}
end

-- 3. Compare-and-set.
if (ARGV[7] ~= '' and ARGV[7] ~= current) or (ARGV[12] ~= '' and ARGV[12] ~= current_rev) then
  return {'conflict', current, current_rev}
end

-- 4. Older than, or as old as, what is stored.
if order ~= '' and stored[3] and not is_after(order, stored[3]) then
  return {'stale', current, current_rev}
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

-- 5. Nothing new. The event id and the order token are remembered all the same: forgotten, a late retry of this
--    event, or an older one, would be applied over whatever comes next.
local digest = redis.sha1hex(ARGV[3] .. '\n' .. ARGV[4])
if digest == stored[2] then
  remember()
  if stored[5] ~= owner then
    redis.call('HSET', KEYS[1], 'owner', owner)
  end
  return {'unchanged', current, current_rev}
end

-- 6. The only place where a version is made: it strictly rises and tells its own age. With a clock that is behind, it
--    rises by some of the clock's digits: a store that has lost its newest versions must not make the same ones again.
version = now > rev and now or rev + 1 + now % STEP_US
local next_version = string.format('%.0f', version)
redis.call('HSET', KEYS[1], 'version', next_version, 'rev', next_version, 'owner', owner, 'state', ARGV[3],
  'private', ARGV[4], 'digest', digest, 'cause', ARGV[8])
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[1], 'erased', '1')
elseif stored[6] then
  redis.call('HDEL', KEYS[1], 'erased')
end
remember()
redis.call('XADD', KEYS[2], 'MAXLEN', '~', LOG_LENGTH, '*', 'version', next_version, 'state', ARGV[3], 'cause', ARGV[8])

-- 7. Announce what was stored; the patch goes along only if it starts from what was stored before. The flags are
--    blanks behind the header's last number, which builds from before them read as part of that number.
local base, patch = string.match(ARGV[9], '^(%d+) (.*)$')
if base ~= current then
  base, patch = '0', ''
end
local flags = (owner == 'billing' and '\t' or '\r') .. (ARGV[11] ~= '' and '\v' or '')
local header = next_version .. ' ' .. base .. ' ' .. #ARGV[8] .. ' ' .. #patch .. flags .. '\n'
-- Not redis.call: its error would be the answer, as if nothing had been committed. A user without rights to the channel
-- gets one, and what was written before it stands.
local announced = redis.pcall(ARGV[1], ARGV[2], header .. ARGV[8] .. patch .. ARGV[3])
return {'applied', next_version, next_version, type(announced) == 'table' and announced.err or nil}
