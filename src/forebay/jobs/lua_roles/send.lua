-- Queue calls. ARGV: most that may wait of one form, and most bytes; then of each call: form, level, id, how long it is
-- waited for (ms), body. Answers 1 or 0 (full) for each, in one string.
--
-- KEYS[1] is the prefix of all keys:
--   c:FORM   sorted set of what waits, ID:SIZE by level and order    b:FORM   its bytes
--   p:ID     c and the body of a call that waits, or w and the worker that took it; ends with its caller's patience
--   a:ID     an answer too large for a message                       n        counts calls
--   calls    the channel that tells forms, each 16 digits            r:CALLER the channel of answers
-- The body of a call that is overdue or was dropped is gone; its entry in c: goes when its turn comes, or when the queue
-- is full.
local call, base = redis.call, KEYS[1]
local most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local LEVEL, KEPT_MS, LOOKED_AT = 3e15, 600000, 1000

local function sweep(queue, bytes)
  for _, member in ipairs(call('ZRANGE', queue, 0, LOOKED_AT - 1)) do
    local id, size = string.match(member, '^(.*):(%d+)$')
    if call('EXISTS', base .. 'p:' .. id) == 0 then
      call('ZREM', queue, member)
      call('DECRBY', bytes, size)
    end
  end
end

local took, come, told = {}, {}, {}
for at = 3, #ARGV, 5 do
  local form, level, id, left_ms, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local queue, bytes = base .. 'c:' .. form, base .. 'b:' .. form
  local function full()
    return call('ZCARD', queue) >= most or tonumber(call('GET', bytes) or 0) + #body > most_bytes
  end
  local refused = full()
  if refused then
    sweep(queue, bytes)
    refused = full()
  end
  took[#took + 1] = refused and '0' or '1'
  if not refused then
    call('SET', base .. 'p:' .. id, 'c' .. body, 'PX', left_ms)
    call('ZADD', queue, string.format('%.0f', level * LEVEL + call('INCR', base .. 'n')), id .. ':' .. #body)
    call('INCRBY', bytes, #body)
    call('PEXPIRE', queue, KEPT_MS)
    call('PEXPIRE', bytes, KEPT_MS)
    if not told[form] then
      told[form] = true
      come[#come + 1] = form
    end
  end
end
if #come > 0 then
  call('PUBLISH', base .. 'calls', table.concat(come))
end
return table.concat(took)
