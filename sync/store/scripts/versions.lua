-- Return the version of the topic of every given snap key, '0' for none. One call instead of hundreds. The fields are
-- those that commit.lua describes.
local versions = {}
for index, key in ipairs(KEYS) do
  local stored = redis.call('HMGET', key, 'version', 'rev', 'public')
  versions[index] = stored[1] == stored[2] and stored[3] or stored[1] or '0'
end
return versions
