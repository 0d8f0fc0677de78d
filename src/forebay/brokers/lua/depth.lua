-- KEYS: streams, and the time after which what somebody holds is overdue. Answers with what waits, the overdue too, and
-- what is held.
local lease_ms = redis.call('GET', KEYS[#KEYS])
local waiting, held = 0, 0
for number = 1, #KEYS - 1 do
  local stream = KEYS[number]
  local pending = redis.pcall('XPENDING', stream, group)
  local leased = pending.err and 0 or pending[1]
  if leased > 0 and lease_ms then
    leased = leased - #redis.call('XPENDING', stream, group, 'IDLE', lease_ms, '-', '+', leased)
  end
  waiting = waiting + redis.call('XLEN', stream) - leased
  held = held + leased
end
return { waiting, held }
