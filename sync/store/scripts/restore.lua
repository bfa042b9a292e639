-- Restore a public snapshot, with its version, in a store that lost its newest commits; only if it is newer than the
-- stored one.
--
-- KEYS[1] snap   KEYS[2] log
-- ARGV[1] version   ARGV[2] state   ARGV[3] cause
-- ARGV[4] over      the version that must be stored, or empty: any older version
-- ARGV[5] owner     "billing", "publisher", or empty if the caller does not know it   ARGV[6] erased   "1", or empty
--
-- Returns {restored, version}: 1 or 0, and the topic's version after the call as a decimal string.
--
-- The private part and the order token are lost; a reconcile rebuilds them. `digest` is set to empty, so that the next
-- commit stores its private part in any case. Nothing is announced: the gateway that restores already has the snapshot.

local stored = redis.call('HMGET', KEYS[1], 'version', 'rev', 'public', 'owner', 'state', 'private', 'beside',
  'beside_private') -- commit.lua describes them
local current = tonumber(stored[1] == stored[2] and stored[3] or stored[1] or '0')
if tonumber(ARGV[1]) <= current or (ARGV[4] ~= '' and tonumber(ARGV[4]) ~= current) then
  return {0, string.format('%.0f', current)}
end
-- The rev rises too, although the store may have facts that are newer than the restored version: a writer that has read
-- them must not commit over what is restored.
local rev = math.max(tonumber(stored[1] or '0'), tonumber(stored[2] or '0'))
rev = string.format('%.0f', math.max(tonumber(ARGV[1]), rev + 1))
redis.call('HSET', KEYS[1], 'version', rev, 'rev', rev, 'public', ARGV[1], 'state', ARGV[2], 'cause', ARGV[3],
  'digest', '')
local is_published = stored[4] == 'publisher' and stored[1] == stored[2]
if stored[7] and ((ARGV[5] == 'billing' and is_published) or (ARGV[5] == 'publisher' and stored[4] == 'billing')) then
  -- The store has lost a switch of the shadow, or a switch back: the two parts change places again.
  redis.call('HSET', KEYS[1], 'owner', ARGV[5], 'private', stored[8] or '', 'beside', stored[5] or 'null',
    'beside_private', stored[6] or '')
elseif ARGV[5] ~= '' and stored[4] ~= 'billing' then
  -- Billing keeps the topics that it has. In those that the store has lost it takes over, a publisher's private part
  -- would be read as facts.
  redis.call('HSET', KEYS[1], 'owner', ARGV[5])
  if ARGV[5] == 'billing' and (is_published or not string.find(stored[6] or '', '"subscriptions":{', 1, true)) then
    redis.call('HSET', KEYS[1], 'private', '')
  end
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'erased', '1')
else
  redis.call('HDEL', KEYS[1], 'erased')
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 200, '*', 'version', ARGV[1], 'state', ARGV[2], 'cause', ARGV[3])
return {1, ARGV[1]}
