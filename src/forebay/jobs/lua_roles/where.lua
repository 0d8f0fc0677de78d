-- Who has each call: c, or w and the worker's id, or nothing. ARGV: ids. The keys are told of in send.lua.
local found = {}
for at, id in ipairs(ARGV) do
  local place = redis.call('GETRANGE', KEYS[1] .. 'p:' .. id, 0, 63)
  found[at] = string.sub(place, 1, 1) == 'c' and 'c' or place
end
return found
