-- Append an event's result to its topic's event log; once, even if two attempts at the event write it at a time, or the
-- answer is lost and the command is sent again.
--
-- KEYS[1] events   stream, capped: event_id, type, outcome, reason, at
--
-- ARGV[1] id         the entry's id if it is free: derived from `at` and the entry's content
-- ARGV[2] kept       approximate number of entries that are kept
-- ARGV[3] event_id   ARGV[4] type   ARGV[5] outcome   ARGV[6] reason   ARGV[7] at (us)
-- ARGV[8] since      the id from which on an entry of this event, with this outcome, is the one to append; "" for none
-- ARGV[9] 1 if its reason and its outcome may be others: parked stays parked
--
-- Returns 1 if it was appended now, 0 if it was there already.

local function find(since, matches)
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', since, 'COUNT', ARGV[2])) do
    local fields = entry[2]
    if fields[2] == ARGV[3] and fields[4] == ARGV[4] and matches(fields) then
      return true
    end
  end
  return false
end

local function add(id)
  return redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'event_id', ARGV[3], 'type', ARGV[4],
    'outcome', ARGV[5], 'reason', ARGV[6], 'at', ARGV[7])
end

local function is_this(fields)
  if ARGV[9] == '1' then
    return (fields[6] == 'parked') == (ARGV[5] == 'parked')
  end
  return fields[6] == ARGV[5] and fields[8] == ARGV[6]
end

if ARGV[8] ~= '' and find(ARGV[8], is_this) then
  return 0
end
if not add(ARGV[1]).err then
  return 1
end

-- An entry with this id or a later one exists: this one was appended before, or another process's clock is ahead.
if find('-', function(fields) return fields[6] == ARGV[5] and fields[10] == ARGV[7] end) then
  return 0
end
local added = add('*')
if added.err then
  return added
end
return 1
