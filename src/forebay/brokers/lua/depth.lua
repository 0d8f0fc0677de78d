-- KEYS: streams. Answers with all entries and those that somebody holds.
local all, held = 0, 0
for _, stream in ipairs(KEYS) do
  all = all + redis.call('XLEN', stream)
  local pending = redis.pcall('XPENDING', stream, group)
  held = held + (pending.err and 0 or pending[1])
end
return { all, held }
