-- Queue calls again that were taken, before all others. ARGV: of each its form, id, how long it is waited for (ms), body.
-- The keys are told of in send.lua.
local call, base, KEPT_MS = redis.call, KEYS[1], 600000
for at = 1, #ARGV, 4 do
  local form, id, left_ms, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  -- A call that was dropped meanwhile stays so.
  if call('EXISTS', base .. 'p:' .. id) == 1 then
    local queue, bytes = base .. 'c:' .. form, base .. 'b:' .. form
    call('SET', base .. 'p:' .. id, 'c' .. body, 'PX', left_ms)
    call('ZADD', queue, 0, id .. ':' .. #body)
    call('INCRBY', bytes, #body)
    call('PEXPIRE', queue, KEPT_MS)
    call('PEXPIRE', bytes, KEPT_MS)
    call('PUBLISH', base .. 'calls', form)
  end
end
