-- All that has been announced: the last of each model, then of each worker that is there its id and what it announced.
-- The keys are told of in announce.lua.
local call, base = redis.call, KEYS[1]
local found = {call('HGETALL', base .. 'last')}
for _, id in ipairs(call('SMEMBERS', base .. 'workers')) do
  local models = call('HGETALL', base .. 'w:' .. id)
  if #models > 0 then
    found[#found + 1] = id
    found[#found + 1] = models
  end
end
return found
