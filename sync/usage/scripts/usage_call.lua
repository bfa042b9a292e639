
-- Reservations that have ended are given back.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', text(now), 'LIMIT', 0, 100)) do
  local hold = hold_of(id)
  local owner = hold and load(hold.name)
  if owner and owner.terms then
    give(owner, hold.parts, hold.amount)
    end_hold(owner, hold)
    owner.reached = math.min(owner.reached, reached_of(owner))
  end
  redis.call('HDEL', KEYS[6], id)
  redis.call('ZREM', KEYS[7], id)
  is_changed = true
end

local function save_all()
  for _, each in pairs(loaded) do
    save(each)
  end
end

local function forget_keys()
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', text(now - KEYS_OLD_US))
  local count = redis.call('ZCARD', KEYS[5])
  local surplus = count - KEYS_MIN
  if surplus > 0 then
    for index, key in ipairs(redis.call('ZRANGE', KEYS[5], 0, math.min(surplus, 20) - 1)) do
      if count - index < KEYS_MAX and tonumber(redis.call('ZSCORE', KEYS[5], key)) > now - KEYS_YOUNG_US then
        break
      end
      redis.call('ZREM', KEYS[5], key)
      redis.call('HDEL', KEYS[4], key)
    end
  end
end

-- Returns what is used of all meters, as JSON; to who asks also what was counted in the present window, with grants.
local function all_meters(is_asked)
  local members = {}
  for name in string.gmatch(names, '%S+') do
    local meter = load(name)
    roll(meter)
    local limit, used = totals(meter)
    local known = meter.terms.limit or #meter.grants > 0
    local parts = {'"' .. name .. '":{"kind":"' .. meter.terms.kind .. '","used":' .. text(used - meter.held) ..
      ',"reserved":' .. text(meter.held)}
    if known then
      table.insert(parts, '"limit":' .. (limit < 0 and '"unlimited"' or text(limit)))
      table.insert(parts, '"remaining":' .. (limit < 0 and '"unlimited"' or text(math.max(limit - used, 0))))
    end
    if is_asked and meter.terms.kind == 'credits' then
      table.insert(parts, '"counted":' .. text(math.max(meter.used + meter.taken - meter.held, 0)))
    end
    local reached = reached_of(meter)
    local status = not known and 'unknown' or limit >= 0 and used > limit and 'over' or limit >= 0 and used >= limit
      and 'reached' or reached > 0 and 'near' or 'ok'
    table.insert(parts, '"status":"' .. status .. '"')
    if meter.ends > 0 then
      table.insert(parts, '"period":{"starts_at":"' .. instant(meter.starts) .. '","ends_at":"' .. instant(meter.ends)
        .. '"}')
    end
    if #meter.grants > 0 then
      local grants = {}
      for index, grant in ipairs(meter.grants) do
        grants[index] = '{"id":"' .. grant.id .. '","amount":' .. text(grant.amount) .. ',"remaining":' ..
          text(grant.amount - grant.taken) .. (grant.ends > 0 and ',"ends_at":"' .. instant(grant.ends) .. '"' or '') ..
          '}'
      end
      table.insert(parts, '"grants":[' .. table.concat(grants, ',') .. ']')
    end
    table.insert(members, table.concat(parts, ',') .. '}')
  end
  return '{' .. table.concat(members, ',') .. '}'
end

-- Returns the next instant at which the state changes by time alone.
local function change_by_time()
  local at = tonumber(redis.call('ZRANGE', KEYS[7], 0, 0, 'WITHSCORES')[2]) or NUMBER_MAX
  for name in string.gmatch(names, '%S+') do
    local meter = load(name)
    at = meter.ends > 0 and math.min(at, meter.ends) or at
    for _, grant in ipairs(meter.grants) do
      at = grant.ends > 0 and math.min(at, grant.ends) or at
    end
  end
  return at
end

-- Writes the state of all meters, and announces it: at once if it is urgent, else once PUSH_US have passed. Returns the
-- microseconds until a `read` is to do it. A state that is shown already makes no version, unless a lost one is
-- restored: several gateways and callers bring the same up to date.
local function push()
  local pushed, due = tonumber(head[4] or '0'), tonumber(head[5] or '0')
  if not is_changed and due == 0 and snap[1] then
    return 0
  end
  if not is_urgent and now < pushed + PUSH_US and pushed <= now then
    if due == 0 then
      due = pushed + PUSH_US
      redis.call('HSET', KEYS[3], 'due', text(due))
    end
    return math.max(due - now, 1)
  end
  local shown = '"entitlements":' .. version .. ',"meters":' .. all_meters() .. '}'
  local digest = redis.sha1hex(shown)
  if digest ~= snap[3] or snap[2] or is_lost then
    local run, since = run_id(), snap[5] or '0'
    if run ~= snap[4] then
      since = snap[1] or '0'
    end
    local lineage = '{"base":' .. text(snap_version) .. ',"since":' .. since .. ',"run":"' .. run .. '",'
    announce(lineage .. shown, false, digest)
    redis.call('HSET', KEYS[2], 'run', run, 'since', since)
    pushed = now
  end
  next_change = change_by_time()
  redis.call('HSET', KEYS[3], 'pushed', text(pushed), 'due', '0', 'next', text(next_change))
  return 0
end

-- Takes over what a gateway still shows and the store has lost: never fewer units than either knows to be used. What is
-- reserved in the store stays reserved; reservations that were lost are given back.
local function restore(shown)
  local told_meters = type(shown) == 'table' and type(shown.meters) == 'table' and shown.meters or {}
  for name in string.gmatch(names, '%S+') do
    local meter, told = load(name), told_meters[name]
    local starts_at = told and told.period and told.period.starts_at
    if told and starts_at == (meter.ends > 0 and instant(meter.starts) or nil) then
      local _, used = totals(meter)
      local missing, taken = math.max(told.used - (used - meter.held), 0), {}
      for _, grant in ipairs(told.grants or {}) do
        taken[grant.id] = grant.amount - grant.remaining
      end
      for _, grant in ipairs(meter.grants) do
        local units = math.min(math.max(math.min(taken[grant.id] or 0, grant.amount) - grant.taken, 0), missing)
        grant.taken, meter.taken, missing = grant.taken + units, meter.taken + units, missing - units
      end
      meter.used = math.min(meter.used + missing, NUMBER_MAX)
      meter.reached = math.max(meter.reached, reached_of(meter))
    end
  end
  is_lost = AMOUNT > snap_version
  snap_version = math.max(snap_version, AMOUNT)
  is_changed, is_urgent = true, true
end

if IS_READ then
  for name in string.gmatch(names, '%S+') do
    if not roll(load(name)) then
      save_all()
      return ask_terms()
    end
  end
  if OPERATION == 'restore' then
    restore(cjson.decode(ARGV[13]))
  end
  local push_in = push()
  if is_changed then
    save_all()
  end
  local at = change_by_time()
  return read_reply(at == NUMBER_MAX and '0' or text(at - now), text(push_in),
    OPERATION == 'show' and all_meters(true) or '')
end

local meter = load(METER)
if not meter.terms then
  return {'refused', 'meter_unknown'}
end
if not roll(meter) then
  return ask_terms()
end
save_all()  -- what follows may be refused, or begin again

local function is_full()
  local limit, used = totals(meter)
  return limit >= 0 and used >= limit
end

local before, was_full, allowed, is_repeated, parts = reached_of(meter), is_full(), true, false, ''
local remembered = KEY ~= '' and redis.call('HGET', KEYS[4], KEY)
if remembered then
  if string.match(remembered, '^%d+ (.*)$') ~= OPERATION .. ' ' .. METER .. ' ' .. ARGV[9] then
    return {'refused', 'key_reused'}
  end
  is_repeated = true
end

-- Whether units may be taken beyond what is left.
local function fits(amount)
  local limit, used = totals(meter)
  local overage = meter.terms.overage
  if limit < 0 or overage == 'allow' then
    return used + amount <= NUMBER_MAX
  end
  return used + amount <= limit or (overage == 'soft' and used < limit and used + amount <= NUMBER_MAX)
end

-- Counts units as unused again: those of the limit first, and never those that are reserved.
local function release(amount)
  local _, used = totals(meter)
  amount = math.min(amount, math.max(used - meter.held, 0))
  local of_limit = math.min(meter.used, amount)
  meter.used = meter.used - of_limit
  for index = #meter.grants, 1, -1 do
    local units = math.min(meter.grants[index].taken, amount - of_limit)
    meter.grants[index].taken, meter.taken = meter.grants[index].taken - units, math.max(meter.taken - units, 0)
    of_limit = of_limit + units
  end
end

local hold = (OPERATION == 'finalize' or OPERATION == 'cancel' or OPERATION == 'reserve') and hold_of(ID)
local needs_limit = OPERATION == 'consume' or OPERATION == 'reserve' or OPERATION == 'set' or OPERATION == 'finalize'
if is_repeated or (OPERATION == 'reserve' and hold) then
  is_repeated = true
elseif needs_limit and not meter.terms.limit and #meter.grants == 0 then
  return {'refused', 'limit_unknown'}
elseif OPERATION == 'consume' then
  allowed = fits(AMOUNT)
  parts = allowed and take(meter, AMOUNT)
elseif OPERATION == 'release' then
  release(AMOUNT)
elseif OPERATION == 'set' then
  local units = AMOUNT + meter.held  -- what is reserved is not in use yet
  allowed = units <= meter.used or fits(units - meter.used)
  meter.used = allowed and units or meter.used
elseif OPERATION == 'reserve' then
  if redis.call('HGET', KEYS[4], 'finalize ' .. ID) then
    return {'refused', 'key_reused'}
  end
  if redis.call('ZCARD', KEYS[7]) >= HOLDS_MAX then
    return {'refused', 'reservations_full'}
  end
  allowed = fits(AMOUNT)
  if allowed then
    parts = take(meter, AMOUNT)
    meter.held = meter.held + AMOUNT
  end
elseif OPERATION == 'finalize' or OPERATION == 'cancel' then
  local amount = OPERATION == 'finalize' and AMOUNT or 0
  if hold and hold.name ~= METER then
    return {'refused', 'reservation_unknown'}
  elseif hold then
    give(meter, hold.parts, math.max(hold.amount - amount, 0))
    -- The work is done: what it took beyond the reservation counts, whatever the limit.
    if amount > hold.amount then
      take(meter, amount - hold.amount)
    end
  elseif OPERATION == 'cancel' then
    is_repeated = true
  else
    allowed = fits(amount)  -- the reservation has ended: what it held may be another's
    parts = allowed and take(meter, amount)
  end
elseif OPERATION == 'adjust' then
  local _, used = totals(meter)
  local units = ID == 'by' and AMOUNT or AMOUNT - (used - meter.held)
  if units < 0 then
    release(-units)
  else
    take(meter, math.min(units, NUMBER_MAX - used))
  end
elseif OPERATION == 'grant' then
  if #meter.grants >= GRANTS_MAX then
    return {'refused', 'grants_full'}
  end
  local granted = {{id = ID, taken = 0, amount = AMOUNT, ends = tonumber(ARGV[12]), origin = 'o'}}
  for _, grant in ipairs(meter.grants) do
    table.insert(granted, grant)
  end
  meter.grants = granted
  sort_grants(meter.grants)
end

local reached = reached_of(meter)
local is_crossed = reached > meter.reached and reached > before
if is_crossed and ARGV[7] == '' then
  return {'arm'}
end

local limit, used = totals(meter)
if not is_repeated then
  if allowed then
    if hold then
      end_hold(meter, hold)
    elseif OPERATION == 'reserve' then
      redis.call('HSET', KEYS[6], ID, string.format('%s %.0f %.0f %s', METER, AMOUNT, meter.starts, parts))
      redis.call('ZADD', KEYS[7], ARGV[12], ID)
    end
    if KEY ~= '' then
      redis.call('HSET', KEYS[4], KEY, text(now) .. ' ' .. OPERATION .. ' ' .. METER .. ' ' .. ARGV[9])
      redis.call('ZADD', KEYS[5], text(now), KEY)
      forget_keys()
    end
    if is_crossed then
      redis.call('XADD', KEYS[10], 'MAXLEN', '~', 100, '*', 'meter', METER, 'threshold', text(reached), 'used',
        text(used), 'limit', text(limit), 'at', text(now))
    end
    if OPERATION == 'adjust' or OPERATION == 'grant' then
      redis.call('XADD', KEYS[11], 'MAXLEN', '~', 200, '*', 'meter', METER, 'what', OPERATION .. ' ' .. ID,
        'amount', ARGV[9], 'used', text(used), 'reason', ARGV[13], 'actor', ARGV[14])
    end
    -- A threshold is announced at once; a use that goes to and fro across it, as often as any other.
    if (reached ~= meter.reached or is_full() ~= was_full) and now >= tonumber(head[7] or '0') + PUSH_US then
      is_urgent = true
      redis.call('HSET', KEYS[3], 'urged', text(now))
    end
    meter.reached = reached
    is_changed = true
  end
  redis.call('XADD', KEYS[8], 'MAXLEN', '~', 100, '*', 'meter', METER, 'operation', OPERATION, 'amount', ARGV[9],
    'key', KEY, 'allowed', allowed and '1' or '', 'used', text(used))
end
local push_in = push()
save_all()
return {'done', allowed and '1' or '', text(used - meter.held), text(meter.held), text(limit),
  limit < 0 and '-1' or text(math.max(limit - used, 0)), text(meter.ends), version, text(snap_version), text(push_in),
  text(reached), text(limit >= 0 and math.max(used - limit, 0) or 0), is_repeated and '1' or ''}
