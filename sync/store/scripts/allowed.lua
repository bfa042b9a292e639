-- Return which commands the caller's ACL rules allow, without running them.
--
-- ARGV[1]   JSON: an array of commands, each an array with all its arguments. They must be complete: for a PUBLISH
--           without its channel, Redis 7.0 ends with a segmentation fault.
--
-- Returns an array of 1 (allowed, or not known to this server) and 0; an empty array if the server cannot check.

local check = redis.acl_check_cmd
if not check then
  return {}
end
local allowed = {}
for index, command in ipairs(cjson.decode(ARGV[1])) do
  local is_known, is_allowed = pcall(check, unpack(command))
  allowed[index] = (not is_known or is_allowed) and 1 or 0
end
return allowed
