
-- Reservations that have ended are given back.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', text(now), 'LIMIT', 0, 100)) do
  local hold = hold_of(id)
  if hold then
    local owner = load(hold.name)
    give(owner, hold, hold.amount)
    end_hold(owner, hold)
    owner.is_dirty = true
    settle_reached(owner, reached_of(owner))
  end
  redis.call('ZREM', KEYS[7], id)
  is_changed = true
end
save_due()  -- what follows may be refused, or begin again

-- Keys are forgotten after a day; of more than KEYS_MIN those that are no longer young, of more than KEYS_MAX all.
local function forget_keys()
  local count = redis.call('ZCARD', KEYS[5])
  local oldest = redis.call('ZRANGE', KEYS[5], 0, 1, 'WITHSCORES')  -- two for each that is added
  for index = 1, #oldest, 2 do
    local age = now - tonumber(oldest[index + 1])
    if age < KEYS_OLD_US and count <= KEYS_MAX and (count <= KEYS_MIN or age < KEYS_YOUNG_US) then
      break
    end
    redis.call('ZREM', KEYS[5], oldest[index])
    redis.call('HDEL', KEYS[4], oldest[index])
    count = count - 1
  end
end

if IS_READ then
  for name in string.gmatch(names, '%S+') do
    if not roll(load(name)) then
      return ask_terms()
    end
  end
  if OPERATION == 'restore' then
    restore(cjson.decode(ARGV[13]))
  end
  if OPERATION == 'show' and terms and not head[1] and not tenant[1] then
    -- A name is asked about that may be a typing error: nothing of it is kept.
    local shown = all_meters(true)
    redis.call('DEL', KEYS[3])
    return read_reply('0', '0', shown)
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
save_due()

local function is_full(limit, used)
  return limit >= 0 and used >= limit
end

local allowed, is_repeated, parts = true, false, ''
local call = OPERATION .. ' ' .. METER .. ' ' .. ARGV[9] .. (OPERATION == 'adjust' and ' ' .. ID or '')
local remembered = KEY ~= '' and redis.call('HGET', KEYS[4], KEY)
if remembered then
  local at, what = string.match(remembered, '^(%d+) (.*)$')
  if not IS_OF_HOLD or (OPERATION == 'finalize' and string.find(what, OPERATION, 1, true) == 1) then
    if what ~= call then
      return {'refused', 'key_reused'}
    end
    is_repeated = now - tonumber(at) < KEYS_OLD_US
  end
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

local hold = IS_OF_HOLD and hold_of(ID)
if hold and hold.name ~= METER then
  return {'refused', OPERATION == 'reserve' and 'key_reused' or 'reservation_unknown'}
end
if OPERATION == 'reserve' and ((hold and hold.amount ~= AMOUNT) or (remembered and not hold)) then
  return {'refused', 'key_reused'}  -- a late repetition would hold what nobody ends
end
local limit_before, with_held = totals(meter)
local free_of_hold = math.max(with_held - meter.held, 0)  -- what `release`, `set` and `adjust` are about
local needs_limit = OPERATION == 'consume' or OPERATION == 'reserve' or (OPERATION == 'finalize' and not hold)
  or (OPERATION == 'set' and AMOUNT > free_of_hold)
if is_repeated or (OPERATION == 'reserve' and hold) then
  is_repeated = true
elseif needs_limit and not is_known(meter) then
  return {'refused', 'limit_unknown'}
elseif OPERATION == 'consume' then
  allowed = fits(AMOUNT)
  parts = allowed and take(meter, AMOUNT)
elseif OPERATION == 'release' then
  release(meter, math.min(AMOUNT, free_of_hold))
elseif OPERATION == 'set' or OPERATION == 'adjust' then
  local more = ID == 'by' and math.max(AMOUNT, -free_of_hold) or AMOUNT - free_of_hold
  allowed = OPERATION == 'adjust' or more <= 0 or fits(more)
  if more < 0 then
    release(meter, -more)
  elseif allowed then
    take(meter, math.min(more, NUMBER_MAX - with_held))
  end
elseif OPERATION == 'reserve' then
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
  if hold then
    give(meter, hold, math.max(hold.amount - amount, 0))
    -- The work is done: what it took beyond the reservation counts, whatever the limit.
    if amount > hold.amount then
      take(meter, amount - hold.amount)
    end
  elseif OPERATION == 'cancel' then
    is_repeated = remembered and true  -- else a `reserve` that comes late is refused
  else
    allowed = fits(amount)  -- the reservation has ended: what it held may be another's
    parts = allowed and take(meter, amount)
  end
elseif OPERATION == 'grant' then
  local granted, operators = {{id = ID, taken = 0, amount = AMOUNT, ends = tonumber(ARGV[12]), origin = 'o'}}, 1
  local is_full = #meter.grants >= GRANTS_MAX
  for _, grant in ipairs(meter.grants) do
    -- Of many, those of operators that are used up are no longer kept.
    if not (is_full and grant.origin == 'o' and grant.taken >= grant.amount) then
      table.insert(granted, grant)
      operators = operators + (grant.origin == 'o' and 1 or 0)
    end
  end
  if operators > GRANTS_MAX then
    return {'refused', 'grants_full'}
  end
  meter.grants = granted
  sort_grants(meter.grants)
end

local limit, used = totals(meter)
local reached = reached_of(meter, limit, used)
local is_crossed = not is_repeated and reached > meter.reached
if is_crossed and ARGV[7] == '' then
  return {'arm'}
end

if not is_repeated then
  if allowed then
    if hold then
      end_hold(meter, hold)
    elseif OPERATION == 'reserve' then
      redis.call('HSET', KEYS[6], ID, string.format('%s %.0f %.0f %s', METER, AMOUNT, meter.since, parts))
      redis.call('ZADD', KEYS[7], text(now + tonumber(ARGV[12])), ID)
    end
    if KEY ~= '' then
      redis.call('HSET', KEYS[4], KEY, text(now) .. ' ' .. call)
      redis.call('ZADD', KEYS[5], text(now), KEY)
      forget_keys()
    end
    if OPERATION == 'adjust' or OPERATION == 'grant' then
      redis.call('XADD', KEYS[11], 'MAXLEN', '~', 200, '*', 'meter', METER, 'what', OPERATION .. ' ' .. ID,
        'amount', ARGV[9], 'used', text(used), 'reason', ARGV[13], 'actor', ARGV[14])
    end
    -- A threshold is announced at once; a use that goes to and fro across it, as often as any other.
    local is_turn = reached ~= reached_of(meter, limit_before, with_held)
      or is_full(limit, used) ~= is_full(limit_before, with_held)
    if is_turn and now >= tonumber(head[7] or '0') + PUSH_US then
      is_urgent = true
      redis.call('HSET', KEYS[3], 'urged', text(now))
    end
    meter.is_dirty, is_changed = true, true
  end
  -- A denied call, too, may be the first one after the limit was lowered.
  if is_crossed then
    redis.call('XADD', KEYS[10], 'MAXLEN', '~', 100, '*', 'meter', METER, 'threshold', text(reached), 'used',
      text(used), 'limit', text(limit), 'at', text(now))
    meter.reached, meter.is_dirty = reached, true
  end
  settle_reached(meter, reached, limit ~= limit_before)
  local length = redis.call('LPUSH', KEYS[8], string.format('%.0f %s %s %s %.0f %d %s', now, OPERATION, METER, ARGV[9],
    used, allowed and 1 or 0, KEY))
  if length > CALLS_MAX * 1.2 then
    redis.call('LTRIM', KEYS[8], 0, CALLS_MAX - 1)
  end
end
local push_in = push()
save_all()
-- Numbers of a reply are sent as integers: formatting each costs more than a command.
return {'done', allowed and '1' or '', math.max(used - meter.held, 0), meter.held, limit,
  limit < 0 and -1 or math.max(limit - used, 0), meter.ends, version, snap_version, push_in, reached,
  limit >= 0 and math.max(used - limit, 0) or 0, is_repeated and '1' or ''}
