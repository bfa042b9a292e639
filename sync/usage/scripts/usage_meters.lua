-- One call about a tenant's usage: count, check against the limit, remember, announce. Atomic; all keys are in the
-- tenant's slot. `usage_run.lua` runs several.
--
-- KEYS[1] tenant    the tenant's snapshot (commit.lua describes it): each call counts against its newest version
-- KEYS[2] snap      the snapshot of the usage topic. In its state, `base` is the version stored before, `run` the
--                   store's present history (a promotion or a restart begins one), and `since` the version with which
--                   that began. A gateway that holds a newer one of another history knows that the store has lost it.
--                   `digest` is of the rest of the state: without a change of that there is no new version
-- KEYS[3] meters    hash: entitlements, definitions, names, periods, pushed, due, urged (when a threshold was announced
--                   last), next (when the state changes by time alone; valid while nothing is due); and of each
--                   meter M:
--                   M:terms     JSON: limit (absent: not known, -1: unlimited), plan, overage, change, thresholds
--                   M:windows   starts of the windows to come, microseconds since 1970, separated by spaces
--                   M:count     "USED HELD STARTS ENDS REACHED TAKEN SINCE": units used of the limit with those held,
--                               units held, the window (0: none), the highest threshold reached, units taken of grants
--                               in the window, when the count began anew
--                   M:grants    credits: "ID:TAKEN:AMOUNT:ENDS:ORIGIN" separated by spaces, the first to end first;
--                               ENDS 0: never, ORIGIN "e" (entitlements) or "o" (an operator). A grant that the
--                               entitlements lack stays with AMOUNT 0: if it comes back, what was taken stays taken
-- KEYS[4] keys      hash: key of a call -> "AT OPERATION METER AMOUNT"   KEYS[5] order   sorted set of them by time
-- KEYS[6] holds     hash: id of a reservation -> "METER AMOUNT SINCE PARTS", PARTS as `take` returns them
-- KEYS[7] expiry    sorted set of reservations by their end
-- KEYS[8] calls     list of the newest calls, the newest first: "AT OPERATION METER AMOUNT USED ALLOWED KEY", ALLOWED 1
--                   or 0, KEY may be empty, and may have spaces. A stream would take 4 KiB for the first of them
-- KEYS[9] periods   stream of ended windows
-- KEYS[10] crossings     stream of thresholds that were reached and not reported
-- KEYS[11] adjustments   stream of what operators did
--
-- ARGV[1] operation    consume, release, set, reserve, finalize, cancel, adjust, grant, read, show, erase; restore:
--                      ARGV[13] is the state of a usage topic, of version ARGV[9], that a gateway holds and the store
--                      has lost
-- ARGV[2] definitions  digest of the catalog's meters; empty: those that are stored
-- ARGV[3] terms        JSON of what the caller has computed for this tenant, or empty:
--                      {version, periods, meters: {M: {terms, windows: [...], grants: [[id, amount, ends], ...]}}}
-- ARGV[4] announce     PUBLISH, or SPUBLISH on Cluster   ARGV[5] channel
-- ARGV[6] push_us      least time between two announcements
-- ARGV[7] armed        "1" if the report of a threshold is scheduled, so that a crash cannot lose it
-- ARGV[8] meter   ARGV[9] amount   ARGV[10] key (calls about a reservation have its id instead)
-- ARGV[11] id       of a reservation or a grant; of `adjust`: "to" or "by"
-- ARGV[12] ends     of a grant: its end, microseconds, 0: never; of a reservation: how long it lasts
-- ARGV[13] reason   ARGV[14] actor
--
-- Returns {"terms", version, owner, state, periods, now}: the caller computes the terms of this version, and calls
-- again; {"arm"}: the caller schedules a report, and calls again; {"refused", code}: nothing was counted; or
-- {"done", allowed, used, held, limit, remaining, ends, version, usage_version, push_in, reached, over, repeated}:
-- limit and remaining -1: unlimited; ends: end of the window, 0: none; of `read`, `show` and `restore` the microseconds
-- until the state changes by time alone, 0: it does not; version: of the entitlements; push_in: microseconds until a
-- `read` is to announce the state, 0: it is announced. `show` also returns what is used of all meters, as JSON.
--
-- Numbers are doubles, which are exact up to 2^53. They are formatted with %.0f, because tostring() gives 1.79e+15.

local OPERATION, METER, KEY, ID = ARGV[1], ARGV[8], ARGV[10], ARGV[11]
local AMOUNT, PUSH_US = tonumber(ARGV[9]), tonumber(ARGV[6])
local IS_OF_HOLD = OPERATION == 'reserve' or OPERATION == 'finalize' or OPERATION == 'cancel'
if IS_OF_HOLD then
  KEY = 'hold ' .. ID  -- a caller's own keys have no space
end
local NUMBER_MAX = 9007199254740991
local STEP_US = 10000
local HOLDS_MAX = 1000
local GRANTS_MAX = 200
local KEYS_MIN, KEYS_MAX = 10000, 100000
local PERIODS_MAX = 400
local CALLS_MAX = 100
local KEYS_YOUNG_US, KEYS_OLD_US = 60 * 1000000, 24 * 3600 * 1000000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number)
  return string.format('%.0f', number)
end

-- Returns an instant as RFC 3339 UTC with milliseconds. The days are counted from 1 March of the year 0 (proleptic
-- Gregorian), so that a leap day is the last of its year.
local function instant(us)
  local days = math.floor(us / 86400000000) + 719468
  local ms = math.floor((us % 86400000000) / 1000)
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(ms / 3600000),
    math.floor(ms / 60000) % 60, math.floor(ms / 1000) % 60, ms % 1000)
end

-- The tenant's version, as commit.lua makes it.
local tenant = redis.call('HMGET', KEYS[1], 'version', 'rev', 'public', 'owner', 'erased')
local version = tenant[1] or '0'
if tenant[3] and tenant[2] == tenant[1] then
  version = tenant[3]
end

-- Fields of the head, and those of the call's meter: one read is cheaper than two.
local head = redis.call('HMGET', KEYS[3], 'entitlements', 'definitions', 'names', 'pushed', 'due', 'next', 'urged',
  METER .. ':terms', METER .. ':count', METER .. ':grants')
local names = head[3] or ''
local is_current = head[1] == version and (ARGV[2] == '' or head[2] == ARGV[2])
local terms = ARGV[3] ~= '' and cjson.decode(ARGV[3]) or nil
if terms and terms.version ~= version then
  terms = nil
end

local loaded, is_changed, is_urgent, is_lost = {}, false, false, false

-- Saves the meters that have changed.
local function save_all()
  for name, meter in pairs(loaded) do
    if meter.is_dirty then
      local grants = {}
      for index, grant in ipairs(meter.grants) do
        grants[index] = string.format('%s:%.0f:%.0f:%.0f:%s', grant.id, grant.taken, grant.amount, grant.ends,
          grant.origin)
      end
      redis.call('HSET', KEYS[3], name .. ':count', string.format('%.0f %.0f %.0f %.0f %d %.0f %.0f', meter.used,
        meter.held, meter.starts, meter.ends, meter.reached, meter.taken, meter.since))
      if #grants > 0 or meter.had_grants then
        redis.call('HSET', KEYS[3], name .. ':grants', table.concat(grants, ' '))
      end
      meter.is_dirty = false
    end
  end
end

-- Saves what changed by time or by new terms before a call that may yet be refused, or not be sent again: it is due to be
-- announced, at once if it is urgent.
local function save_due()
  save_all()
  if is_changed then
    local at = is_urgent and now or math.max(now, tonumber(head[4] or '0') + PUSH_US)
    head[5] = text(at)
    redis.call('HSET', KEYS[3], 'due', head[5])
  end
end

local function ask_terms()
  save_due()
  return {'terms', version, tenant[4] or '', redis.call('HGET', KEYS[1], 'state') or 'null',
    redis.call('HGET', KEYS[3], 'periods') or '', text(now)}
end

local snap = redis.call('HMGET', KEYS[2], 'version', 'erased', 'digest', 'run', 'since')
local snap_version = tonumber(snap[1] or '0')
local IS_READ = OPERATION == 'read' or OPERATION == 'show' or OPERATION == 'restore'

local function read_reply(wait, push_in, meters_json)
  return {'done', '1', '0', '0', '0', '0', wait, version, text(snap_version), push_in, '0', '0', '', meters_json}
end

-- Returns the id of the store's present history: a promotion and a restart begin a new one.
local function run_id()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x%x%x%x%x%x%x%x)') or ''
end

-- Stores the state of the usage topic as a new version, and announces it as commit.lua does.
local function announce(state, erased, digest)
  local next_version = text(now > snap_version and now or snap_version + 1 + now % STEP_US)
  redis.call('HSET', KEYS[2], 'version', next_version, 'rev', next_version, 'owner', 'billing', 'state', state,
    'private', '', 'digest', digest, 'cause', '')
  if erased then
    redis.call('HSET', KEYS[2], 'erased', '1')
  elseif snap[2] then
    redis.call('HDEL', KEYS[2], 'erased')
  end
  redis.pcall(ARGV[4], ARGV[5], next_version .. ' 0 0 0\t' .. (erased and '\v' or '') .. '\n' .. state)
  snap_version = tonumber(next_version)
end

-- The tenant is erased: so is its usage.
if tenant[5] or OPERATION == 'erase' then
  redis.call('DEL', unpack(KEYS, 3))
  if snap[1] and not snap[2] then
    announce('null', true, '')
  end
  return {'refused', 'tenant_erased'}
end
if not is_current and not terms then
  return ask_terms()
end
-- A read of what has not changed since it was announced, and of a catalog without meters, writes nothing.
local next_change = tonumber(head[6] or '0')
if OPERATION == 'read' and is_current and (head[5] or '0') == '0' and snap[1] and not snap[2] and now < next_change then
  return read_reply(next_change == NUMBER_MAX and '0' or text(next_change - now), '0', '')
end
if IS_READ and not snap[1] and terms and not next(terms.meters) then
  return read_reply('0', '0', '{}')
end

-- Meters. Each that a call touches is loaded once.

local function load(name)
  if loaded[name] then
    return loaded[name]
  end
  local terms_of, count, grants = head[8], head[9], head[10]
  if name ~= METER then
    terms_of, count, grants = unpack(redis.call('HMGET', KEYS[3], name .. ':terms', name .. ':count', name .. ':grants'))
  end
  local used, held, starts, ends, reached, taken, since = string.match(count or '0 0 0 0 0 0 0',
    '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local meter = {name = name, terms = terms_of and cjson.decode(terms_of), used = tonumber(used),
    held = tonumber(held), starts = tonumber(starts), ends = tonumber(ends), reached = tonumber(reached),
    taken = tonumber(taken), since = tonumber(since), grants = {}}
  for id, of_grant, amount, last, origin in string.gmatch(grants or '', '(%S+):(%d+):(%d+):(%d+):(%a)') do
    table.insert(meter.grants, {id = id, taken = tonumber(of_grant), amount = tonumber(amount), ends = tonumber(last),
      origin = origin})
  end
  loaded[name] = meter
  return meter
end

-- What was used of a grant: it may have become smaller since.
local function spent(grant)
  return math.min(grant.taken, grant.amount)
end

-- Returns the limit, -1 for unlimited; and what is used of it, with what is held. Grants that have ended do not count.
local function totals(meter)
  local limit, used = meter.terms and meter.terms.limit or 0, meter.used
  for _, grant in ipairs(meter.grants) do
    used = used + spent(grant)
    limit = limit < 0 and limit or math.min(limit + grant.amount, NUMBER_MAX)
  end
  return limit, used
end

-- Whether it is known what the tenant may use.
local function is_known(meter)
  local granted = false
  for _, grant in ipairs(meter.grants) do
    granted = granted or grant.amount > 0
  end
  return granted or meter.terms.limit ~= nil
end

-- Records what was counted in a window that ends, of the limit and of grants, and begins to count anew.
local function close_window(meter, ends)
  redis.call('XADD', KEYS[9], 'MAXLEN', '~', PERIODS_MAX, '*', 'meter', meter.name, 'kind', meter.terms.kind, 'starts',
    text(meter.starts), 'ends', text(ends), 'used', text(meter.used + meter.taken), 'limit',
    meter.terms.limit and text(meter.terms.limit) or '')
  meter.used, meter.held, meter.taken, meter.reached = 0, 0, 0, 0
  meter.since = math.max(now, meter.since + 1)
end

-- Drops the grants that have ended, and moves the meter to the window of now.
local function roll(meter)
  for index = #meter.grants, 1, -1 do
    local ends = meter.grants[index].ends
    if ends > 0 and ends <= now then
      table.remove(meter.grants, index)
      meter.had_grants, meter.is_dirty, is_changed, is_urgent = true, true, true, true
    end
  end
  if meter.ends == 0 or now < meter.ends then
    return true
  end
  local starts, ends, ahead = meter.ends, 0, {}
  for instant_us in string.gmatch(redis.call('HGET', KEYS[3], meter.name .. ':windows') or '', '%d+') do
    local at = tonumber(instant_us)
    if at <= now then
      starts = math.max(starts, at)
    else
      table.insert(ahead, instant_us)
      ends = ends == 0 and at or ends
    end
  end
  if ends == 0 then
    return false
  end
  close_window(meter, meter.ends)
  redis.call('HSET', KEYS[3], meter.name .. ':windows', table.concat(ahead, ' '))
  meter.starts, meter.ends, meter.is_dirty = starts, ends, true
  is_changed, is_urgent = true, true
  return true
end
