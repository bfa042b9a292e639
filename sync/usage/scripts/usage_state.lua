
-- The state of the usage topic: what it shows, when it is announced, and what a gateway brings back of it.

-- Returns what is used of all meters, as JSON; to who asks also what was counted in the present window, with grants.
local function all_meters(is_asked)
  local members = {}
  for name in string.gmatch(names, '%S+') do
    local meter = load(name)
    roll(meter)
    local limit, used = totals(meter)
    local known = is_known(meter)
    local parts = {'"' .. name .. '":{"kind":"' .. meter.terms.kind .. '","used":' .. text(math.max(used - meter.held, 0)) ..
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
    local grants = {}
    for _, grant in ipairs(meter.grants) do
      if grant.amount > 0 then
        table.insert(grants, '{"id":"' .. grant.id .. '","amount":' .. text(grant.amount) .. ',"remaining":' ..
          text(grant.amount - spent(grant)) .. (grant.ends > 0 and ',"ends_at":"' .. instant(grant.ends) .. '"' or '')
          .. '}')
      end
    end
    if #grants > 0 then
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
  if not is_urgent and (due == 0 or now < due) and now < pushed + PUSH_US and pushed <= now then
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
      local told_used, taken = told.used, {}
      for _, grant in ipairs(told.grants or {}) do
        taken[grant.id] = grant.amount - grant.remaining
        if grant.ends_at and grant.ends_at <= instant(now) then
          told_used = told_used - taken[grant.id]  -- what was used of it ended with it
        end
      end
      local missing = math.max(told_used - (used - meter.held), 0)
      for _, grant in ipairs(meter.grants) do
        local units = math.min(math.max(math.min(taken[grant.id] or 0, grant.amount) - grant.taken, 0), missing)
        grant.taken, meter.taken, missing = grant.taken + units, meter.taken + units, missing - units
      end
      meter.used = math.min(meter.used + missing, NUMBER_MAX)
      meter.reached, meter.is_dirty = math.max(meter.reached, reached_of(meter)), true
    end
  end
  is_lost = AMOUNT > snap_version
  snap_version = math.max(snap_version, AMOUNT)
  is_changed, is_urgent = true, true
end
