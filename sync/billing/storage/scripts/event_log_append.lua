-- Append an event's result to its topic's event log; once, even if the answer is lost and the command is sent again.
--
-- KEYS[1] events   stream, capped: event_id, type, outcome, reason, at
--
-- ARGV[1] id         the entry's id if it is free: derived from `at` and the entry's content
-- ARGV[2] kept       approximate number of entries that are kept
-- ARGV[3] event_id   ARGV[4] type   ARGV[5] outcome   ARGV[6] reason   ARGV[7] at (us)
--
-- Returns 1 if it was appended now, 0 if it was there already.

local function add(id)
  return redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'event_id', ARGV[3], 'type', ARGV[4],
    'outcome', ARGV[5], 'reason', ARGV[6], 'at', ARGV[7])
end

if not add(ARGV[1]).err then
  return 1
end

-- An entry with this id or a later one exists: this one was appended before, or another process's clock is ahead.
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[2])) do
  if entry[2][2] == ARGV[3] and entry[2][6] == ARGV[5] and entry[2][10] == ARGV[7] then
    return 0
  end
end
local added = add('*')
if added.err then
  return added
end
return 1
