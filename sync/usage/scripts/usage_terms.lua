
-- The terms: what the newest version of the tenant says of its meters.

local function sort_grants(grants)
  table.sort(grants, function(a, b)
    local x, y = a.ends == 0 and NUMBER_MAX or a.ends, b.ends == 0 and NUMBER_MAX or b.ends
    return x < y or (x == y and a.id < b.id)
  end)
end

-- Merges what the entitlements grant now into the grants: what was taken of each stays taken.
local function merge_grants(meter, granted)
  local merged, known, gone = {}, {}, 0
  for _, grant in ipairs(granted) do
    local new = {id = grant[1], taken = 0, amount = tonumber(grant[2]), ends = tonumber(grant[3]), origin = 'e'}
    known[new.id] = new
    table.insert(merged, new)
  end
  for _, grant in ipairs(meter.grants) do
    if grant.origin == 'o' then
      table.insert(merged, grant)
    elseif known[grant.id] then
      known[grant.id].taken = grant.taken
    elseif grant.taken > 0 and gone < GRANTS_MAX then
      gone, grant.amount = gone + 1, 0
      table.insert(merged, grant)
    end
  end
  sort_grants(merged)
  meter.had_grants = #meter.grants > 0
  meter.grants = merged
end

local function hold_of(id)
  local stored = redis.call('HGET', KEYS[6], id)
  local name, amount, since, parts = string.match(stored or '', '^(%S+) (%d+) (%d+) (.*)$')
  return name and {id = id, name = name, amount = tonumber(amount), since = tonumber(since), parts = parts}
end

local function end_hold(meter, hold)
  redis.call('HDEL', KEYS[6], hold.id)
  redis.call('ZREM', KEYS[7], hold.id)
  if hold.since == meter.since then
    meter.held = math.max(meter.held - hold.amount, 0)
  end
end

-- Returns how many units of the limit are held: a change of plan does not end a reservation.
local function held_of_limit(meter)
  local units = 0
  for _, id in ipairs(meter.held > 0 and redis.call('HKEYS', KEYS[6]) or {}) do
    local hold = hold_of(id)
    if hold.name == meter.name and hold.since == meter.since then
      units = units + tonumber(string.match(' ' .. hold.parts, ' @=(%d+)') or 0)
    end
  end
  return math.min(units, meter.used)
end

-- What a change of the plan does to what was used.
local function change_plan(meter, old, new)
  if new.change == 'keep' then
    return
  end
  local held = held_of_limit(meter)
  if new.change == 'reset' then
    local all_held, since = meter.held, meter.since
    meter.used = meter.used - held
    close_window(meter, now)
    meter.used, meter.held, meter.since = held, all_held, since
  elseif (old.limit or 0) > 0 and (new.limit or 0) > 0 then
    -- Of a limit of 0 there is no share: what was used stays.
    meter.used = math.min(held + math.ceil((meter.used - held) * new.limit / old.limit), NUMBER_MAX)
  end
end

-- Takes over the terms of the newest version of the tenant.
local function adopt(name, text_of_terms, windows_to_come, granted)
  local meter, new = load(name), cjson.decode(text_of_terms)
  local old, starts, ends, limit_before = meter.terms, 0, 0, totals(meter)
  for _, at in ipairs(windows_to_come) do
    if at <= now then
      starts = at
    elseif at > meter.starts then
      -- A clock that went back does not end a window twice.
      ends = ends == 0 and at or ends
    end
  end
  local is_change = old and old.plan ~= new.plan
  local is_over = meter.ends > 0 and now >= meter.ends
  local is_new_period = starts > meter.starts and meter.starts > 0
  if is_over or (is_new_period and not is_change) then
    meter.terms = old or new
    close_window(meter, is_over and meter.ends or starts)
  elseif is_change then
    change_plan(meter, old, new)
  end
  -- A window that began later than the calendar's goes on.
  meter.starts = (is_new_period or is_over or meter.starts == 0) and starts or meter.starts
  meter.ends = ends
  local windows = {}
  for index, at in ipairs(windows_to_come) do
    windows[index] = text(at)
  end
  merge_grants(meter, granted)
  meter.terms, meter.is_dirty = new, true
  local limit, used = totals(meter)
  settle_reached(meter, reached_of(meter, limit, used), limit ~= limit_before)
  redis.call('HSET', KEYS[3], name .. ':windows', table.concat(windows, ' '), name .. ':terms', text_of_terms)
end

if terms then
  local listed = {}
  for name, new in pairs(terms.meters) do
    adopt(name, new.terms, new.windows, new.grants)
    table.insert(listed, name)
  end
  -- A meter that the catalog has no more keeps its count, in case that it comes back.
  for name in string.gmatch(names, '%S+') do
    if not terms.meters[name] then
      load(name).terms = nil
      redis.call('HDEL', KEYS[3], name .. ':terms', name .. ':windows')
    end
  end
  table.sort(listed)
  names = table.concat(listed, ' ')
  redis.call('HSET', KEYS[3], 'entitlements', version, 'definitions', ARGV[2], 'names', names,
    'periods', terms.periods)
  -- Two catalogs at once, in a rolling deploy, are no reason to announce each call.
  is_changed, is_urgent = true, head[1] ~= version
end
