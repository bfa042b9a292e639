-- Store a tenant's name for a subscription, if it is stronger than the stored name of its strength; read the link.
--
-- KEYS[1] link    string: the tenant that the subscription belongs to, or "!erased"
-- KEYS[2] names   hash. signed, signed_checkout, metadata, checkout, signed_customer, customer, ending: "ORDER TENANT".
--                 guess, operator: TENANT. overruled: the metadata's tenant that the operator's link overruled, "*" if
--                 it is not known yet; then linked: the link's place in the order, overruled_order: that of the body
--                 with the metadata. left:US: a tenant that was left by the move at US and may still have the
--                 subscription. moved_us: time of the last move. revision: rises with every change
--
-- ARGV[1] strength   one of those with an order; empty: no name
-- ARGV[2] tenant
-- ARGV[3] order      of the event, compared bytewise; empty: read only
-- ARGV[4] event_id
--
-- Returns {link before the call or empty, fields and values of `names`}.

local ERASED = '!erased'

-- Compares bytes: Lua's < depends on the server's LC_COLLATE.
local function is_after(a, b)
  for index = 1, math.min(#a, #b) do
    local x, y = a:byte(index), b:byte(index)
    if x ~= y then
      return x > y
    end
  end
  return #a > #b
end

-- An event from the future counts as of its receipt, and beside others from the future by its own time, behind the '@'.
local function is_newer(a, b)
  local own_a, own_b = string.match(a, '^%d+@(.+)$'), string.match(b, '^%d+@(.+)$')
  return is_after(own_a and own_b and own_a or a, own_a and own_b or b)
end

local link = redis.call('GET', KEYS[1])
if ARGV[1] ~= '' and link ~= ERASED then
  -- 1. Older builds stored the link alone: the first name that they saw. Any newer metadata overrules it.
  if link and redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[2], 'metadata', '0 ' .. link)
  end

  -- 2. The newest metadata counts, and the oldest checkout: it made the subscription.
  local order, tenant = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%S+) (.+)$')
  local is_stronger = not order
  if order then
    is_stronger = is_newer(ARGV[3], order)
    if ARGV[1] == 'checkout' or ARGV[1] == 'signed_checkout' then
      is_stronger = is_newer(order, ARGV[3])
    end
  end
  if ARGV[1] == 'ending' and link and redis.call('EXISTS', KEYS[2]) == 1 and not redis.call('HGET', KEYS[2], 'ending') then
    is_stronger = false -- it will never count: another name made the link
  end
  if is_stronger then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
    if tenant ~= ARGV[2] then
      redis.call('HINCRBY', KEYS[2], 'revision', 1)
      redis.call('HSET', KEYS[2], 'by', ARGV[4])
    end
  end

  -- 3. Nobody has it yet.
  if not link then
    redis.call('SET', KEYS[1], ARGV[2])
  end
end

-- 4. An operator's link overruled metadata that was not known. It is that of the newest body with a name from before the
--    link, else of the oldest body after it, whatever the order of arrival.
local linked = redis.call('HGET', KEYS[2], 'linked')
if linked and ARGV[3] ~= '' and (ARGV[1] == '' or ARGV[1] == 'metadata' or ARGV[1] == 'signed') then
  local known = redis.call('HGET', KEYS[2], 'overruled_order')
  local is_it
  if known and not is_after(known, linked) then
    local is_newer = redis.call('HGET', KEYS[2], 'overruled') == '' or is_after(ARGV[3], known)
    is_it = ARGV[1] ~= '' and is_newer and not is_after(ARGV[3], linked)
  else
    is_it = not known or is_after(known, ARGV[3])
  end
  if is_it then
    redis.call('HSET', KEYS[2], 'overruled', ARGV[2], 'overruled_order', ARGV[3])
    redis.call('HINCRBY', KEYS[2], 'revision', 1)
  end
end
return {link or '', redis.call('HGETALL', KEYS[2])}
