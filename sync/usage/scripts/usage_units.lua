
-- Units of a meter: taken, given back, and the thresholds that they reach.

-- Returns what units are taken of, in order: what ends first. `false` is the limit.
local function sources(meter)
  local found, has_limit = {}, false
  for _, grant in ipairs(meter.grants) do
    if not has_limit and (grant.ends == 0 or (meter.ends > 0 and meter.ends <= grant.ends)) then
      table.insert(found, false)
      has_limit = true
    end
    table.insert(found, grant)
  end
  if not has_limit then
    table.insert(found, false)
  end
  return found
end

-- Gives units back, those first that are taken last.
local function release(meter, amount)
  local found = sources(meter)
  for index = #found, 1, -1 do
    local grant = found[index]
    local units = math.min(grant and spent(grant) or meter.used, amount)
    amount = amount - units
    if not grant then
      meter.used = meter.used - units
    elseif units > 0 then
      grant.taken, meter.taken = spent(grant) - units, math.max(meter.taken - units, 0)
    end
  end
end

-- Gives up to `amount` units of a reservation back to what they were taken of, as far as that still counts: the last
-- ones first. What of it was given back otherwise meanwhile is given back of the rest.
local function give(meter, hold, amount)
  local taken, missing = {}, 0
  for id, units in string.gmatch(hold.parts, '(%S+)=(%d+)') do
    table.insert(taken, {id, tonumber(units)})
  end
  for index = #taken, 1, -1 do
    local id, units = taken[index][1], math.min(taken[index][2], amount)
    amount = amount - units
    if id == '@' and hold.since == meter.since then
      missing = missing + math.max(units - meter.used, 0)
      meter.used = math.max(meter.used - units, 0)
    end
    for _, grant in ipairs(meter.grants) do
      if grant.id == id then
        missing = missing + math.max(math.min(units, grant.amount) - grant.taken, 0)
        grant.taken, meter.taken = math.max(grant.taken - units, 0), math.max(meter.taken - units, 0)
      end
    end
  end
  release(meter, missing)
end

-- Takes units of what ends first; returns the parts. What nothing covers counts as used of the limit.
local function take(meter, amount)
  if #meter.grants == 0 then
    meter.used = math.min(meter.used + amount, NUMBER_MAX)
    return '@=' .. text(amount)
  end
  local parts, limit, of_limit, place = {}, meter.terms.limit or 0, 0, 1
  for _, grant in ipairs(sources(meter)) do
    local free = grant and grant.amount - grant.taken or limit < 0 and amount or limit - meter.used
    local units = math.min(math.max(free, 0), amount)
    amount = amount - units
    if not grant then
      of_limit, place = units, #parts + 1
    elseif units > 0 then
      grant.taken, meter.taken = grant.taken + units, meter.taken + units
      table.insert(parts, grant.id .. '=' .. text(units))
    end
  end
  of_limit = of_limit + amount
  meter.used = math.min(meter.used + of_limit, NUMBER_MAX)
  if of_limit > 0 then
    table.insert(parts, place, '@=' .. text(of_limit))
  end
  return table.concat(parts, ' ')
end

-- Returns the highest threshold that is reached, a percentage; 0 for none. By the totals, unless they are given.
local function reached_of(meter, limit, used)
  if not limit then
    limit, used = totals(meter)
  end
  local highest = 0
  for _, threshold in ipairs(limit > 0 and meter.terms and meter.terms.thresholds or {}) do
    if used * 100 >= threshold * limit then
      highest = math.max(highest, threshold)
    end
  end
  return highest
end

-- A threshold is reported once in a window. It may be reached anew after the limit has changed; and by meters that have no
-- window, after less was in use.
local function settle_reached(meter, reached, is_other_limit)
  if reached < meter.reached and (is_other_limit or (meter.terms and meter.terms.kind == 'allocated')) then
    meter.reached, meter.is_dirty = reached, true
  end
end
