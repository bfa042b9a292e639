-- Return the version of every topic whose snap key is given, '0' for none. One call instead of hundreds.
local versions = {}
for index, key in ipairs(KEYS) do
  versions[index] = redis.call('HGET', key, 'version') or '0'
end
return versions
