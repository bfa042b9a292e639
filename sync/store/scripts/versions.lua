-- Return the version of the topic of every given snap key, '0' for none. One call instead of hundreds.
local versions = {}
for index, key in ipairs(KEYS) do
  versions[index] = redis.call('HGET', key, 'version') or '0'
end
return versions
