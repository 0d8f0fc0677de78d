-- Queue calls again that were taken, before all others. ARGV: of each its form, id, how long it is waited for (ms), body.
-- The keys are told of in send.lua.
local call, base = redis.call, KEYS[1]
for at = 1, #ARGV, 4 do
  local form, id, left_ms, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  -- A call that was dropped meanwhile stays so.
  if call('EXISTS', base .. 'p:' .. id) == 1 then
    call('SET', base .. 'p:' .. id, 'c' .. body, 'PX', left_ms)
    call('ZADD', base .. 'c:' .. form, 0, id .. ':' .. #body)
    call('INCRBY', base .. 'b:' .. form, #body)
    call('PUBLISH', base .. 'calls', form)
  end
end
