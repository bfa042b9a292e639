-- Commit one change of one topic: dedupe, order check, compare-and-set, write, log, announce. Atomic; keys in one slot.
--
-- KEYS[1] snap   hash: version, rev, public, owner, state, private, digest, order, cause, erased, beside, beside_private
--
--                `version` and `rev` rise with every commit, also of facts alone, because builds from before `rev`
--                compare-and-set on `version`. `public` is the version of the state, if that is another; it counts while
--                `rev` is the `version`: the newest commit is none of such a build. So does `owner`: else whoever wrote
--                the facts is billing.
--
--                `beside` and `beside_private` are the state and the private part that readers do not see, of the one who
--                is not the owner: billing's in a shadow, and a publisher's once the topic is switched to billing.
--
-- KEYS[2] log    stream, newest ~200 versions: version, state, cause
-- KEYS[3] seen   sorted set: event id -> microseconds when first committed; 7 days, and at most the newest 10,000
--
-- ARGV[1] announce     PUBLISH, or SPUBLISH on Cluster
-- ARGV[2] channel      the topic's Redis channel
-- ARGV[3] state        public state, canonical JSON
-- ARGV[4] private      private part, canonical JSON, or empty
-- ARGV[5] event_id     or empty
-- ARGV[6] order        token compared bytewise, or empty
-- ARGV[7] if_version   decimal, or empty
-- ARGV[8] cause        JSON, or empty
-- ARGV[9] patch        "BASE PATCH": the version it starts from and an RFC 7396 merge patch, or empty
-- ARGV[10] owner       "billing" or "publisher": who computes this state
-- ARGV[11] erased      "1" when this commit erases the topic, or empty
-- ARGV[12] if_rev      decimal, or empty
-- ARGV[13] beside      the state to store beside the other one, ARGV[14] with its private part; absent to leave it
--                      Billing sends it: then the owner may be the publisher again.
--
-- Returns {verdict, version, rev}: the verdict, and the topic's version and rev after the call, as decimal strings
-- ("0": none). "unchanged" with a rev above the version: the private part may have been stored.
-- A fourth member is present only if the commit succeeded but the announcement failed: the error, as text.
--
-- Numbers are doubles, which are exact up to 2^53. They are formatted with %.0f, because tostring() gives 1.79e+15.

local SEEN_US = 7 * 24 * 3600 * 1000000
local SEEN_MAX = 10000
local LOG_LENGTH = 200
local STEP_US = 10000

-- Compares bytes. Lua's < depends on the server's LC_COLLATE, and sorts "a" before "B" in most locales.
local function is_after(a, b)
  for index = 1, math.min(#a, #b) do
    local x, y = a:byte(index), b:byte(index)
    if x ~= y then
      return x > y
    end
  end
  return #a > #b
end

local stored = redis.call('HMGET', KEYS[1], 'version', 'digest', 'order', 'rev', 'owner', 'erased', 'state', 'public',
  'beside')
local version = tonumber(stored[1] or '0')
local rev = math.max(version, tonumber(stored[4] or '0'))
if stored[8] and stored[4] == stored[1] then
  version = tonumber(stored[8])
end
local current, current_rev = string.format('%.0f', version), string.format('%.0f', rev)
local event_id, order, owner, beside = ARGV[5], ARGV[6], ARGV[10], ARGV[13]

-- 1. Billing computes this topic: a publish would overwrite its facts. Builds from before the owner stored the facts
--    alone, maybe over what a publisher had written.
local is_billed = stored[5] == 'billing'
if not is_billed and stored[1] and not (stored[5] and stored[4] == stored[1]) then
  local private = redis.call('HGET', KEYS[1], 'private')
  is_billed = private and string.find(private, '"subscriptions":{', 1, true)
end

if owner ~= 'billing' and is_billed and not beside then
  -- A topic that was switched may be switched back: then readers see what is published now.
  if stored[9] and (order == '' or not stored[3] or is_after(order, stored[3])) then
    redis.call('HSET', KEYS[1], 'beside', ARGV[3], 'beside_private', ARGV[4])
    if order ~= '' then
      redis.call('HSET', KEYS[1], 'order', order)
    end
  end
  return {'billed', current, current_rev}
end

-- 2. The event was committed before: nothing to do. A publisher's event ids may be those of the provider's events, so
--    billing forgets them when it takes the topic over.
local takes_over = owner == 'billing' and stored[1] and not is_billed
if event_id ~= '' and not takes_over and redis.call('ZSCORE', KEYS[3], event_id) then
  return {'duplicate', current, current_rev}
end

-- 3. Compare-and-set.
if (ARGV[7] ~= '' and ARGV[7] ~= current) or (ARGV[12] ~= '' and ARGV[12] ~= current_rev) then
  return {'conflict', current, current_rev}
end

-- 4. The order is not above the stored order.
if order ~= '' and stored[3] and not is_after(order, stored[3]) then
  return {'stale', current, current_rev}
end

if takes_over then
  redis.call('DEL', KEYS[3])
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function remember()
  if event_id ~= '' then
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - SEEN_US))
    redis.call('ZADD', KEYS[3], string.format('%.0f', now), event_id)
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - SEEN_MAX)
    redis.call('PEXPIRE', KEYS[3], string.format('%.0f', SEEN_US / 1000))
  end
  if order ~= '' then
    redis.call('HSET', KEYS[1], 'order', order)
  end
end

local function store_beside()
  if beside then
    redis.call('HSET', KEYS[1], 'beside', beside, 'beside_private', ARGV[14])
  elseif stored[9] and ARGV[11] ~= '' then
    redis.call('HDEL', KEYS[1], 'beside', 'beside_private')
  end
end

-- 5. The only place where a rev or a version is made. It is the time, and always above the previous one. If the clock is
--    behind, it rises by some digits of the clock, so that a store that lost its newest versions does not repeat them.
local next_version = string.format('%.0f', now > rev and now or rev + 1 + now % STEP_US)

-- 6. The public state is unchanged: no version, and nothing is announced. A new private part raises the rev. The event id
--    and the order token are stored in any case. Otherwise a late retry of this event, or an older event, could overwrite
--    a later state.
local digest = redis.sha1hex(ARGV[3] .. '\n' .. ARGV[4] .. (beside and '\n' .. beside .. '\n' .. ARGV[14] or ''))
local shown = stored[7] or (beside and 'null')
if ARGV[3] == shown and (ARGV[11] ~= '') == (stored[6] ~= false) then
  remember()
  store_beside()
  if stored[5] ~= owner then
    redis.call('HSET', KEYS[1], 'owner', owner)
  end
  if digest ~= stored[2] then
    redis.call('HSET', KEYS[1], 'version', next_version, 'rev', next_version, 'public', current, 'private', ARGV[4],
      'digest', digest)
    current_rev = next_version
  end
  return {'unchanged', current, current_rev}
end
redis.call('HSET', KEYS[1], 'version', next_version, 'rev', next_version, 'owner', owner, 'state', ARGV[3],
  'private', ARGV[4], 'digest', digest, 'cause', ARGV[8])
if stored[8] then
  redis.call('HDEL', KEYS[1], 'public')
end
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[1], 'erased', '1')
elseif stored[6] then
  redis.call('HDEL', KEYS[1], 'erased')
end
remember()
store_beside()
redis.call('XADD', KEYS[2], 'MAXLEN', '~', LOG_LENGTH, '*', 'version', next_version, 'state', ARGV[3], 'cause', ARGV[8])

-- 7. Announce the new state, with the patch only if its base is the version stored before. The flags are blank
--    characters after the header's last number; older builds, which have no flags, read them as part of that number.
local base, patch = string.match(ARGV[9], '^(%d+) (.*)$')
if base ~= current then
  base, patch = '0', ''
end
local flags = (owner == 'billing' and '\t' or '\r') .. (ARGV[11] ~= '' and '\v' or '')
local header = next_version .. ' ' .. base .. ' ' .. #ARGV[8] .. ' ' .. #patch .. flags .. '\n'
-- pcall, not call: an error of call would replace the answer, although the commit is done. A user without rights to the
-- channel gets such an error.
local announced = redis.pcall(ARGV[1], ARGV[2], header .. ARGV[8] .. patch .. ARGV[3])
return {'applied', next_version, next_version, type(announced) == 'table' and announced.err or nil}
