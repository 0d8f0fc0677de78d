-- Take calls. ARGV: the worker's id, most bytes; then of each form: its name, most calls. Answers the forms of which more
-- wait, in one string, then of each call: form, id, how long it is waited for (ms), body.
-- The keys are told of in send.lua.
local call, base = redis.call, KEYS[1]
local worker, left_bytes = ARGV[1], tonumber(ARGV[2])
local found, more = {''}, {}
for at = 3, #ARGV, 2 do
  local form, most = ARGV[at], tonumber(ARGV[at + 1])
  local queue, bytes = base .. 'c:' .. form, base .. 'b:' .. form
  local looked, size_sum = 0, 0
  for _, member in ipairs(call('ZRANGE', queue, 0, most - 1)) do
    if left_bytes <= 0 then
      break
    end
    local id, size = string.match(member, '^(.*):(%d+)$')
    looked, size_sum = looked + 1, size_sum + size
    local key = base .. 'p:' .. id
    local body = call('GET', key)
    if body and string.sub(body, 1, 1) == 'c' then
      local left_ms = call('PTTL', key)
      if left_ms > 0 then
        call('SET', key, 'w' .. worker, 'PX', left_ms)
        found[#found + 1] = form
        found[#found + 1] = id
        found[#found + 1] = left_ms
        found[#found + 1] = string.sub(body, 2)
        left_bytes = left_bytes - size
      end
    end
  end
  if looked > 0 then
    call('ZREMRANGEBYRANK', queue, 0, looked - 1)
    if call('EXISTS', queue) == 1 then
      call('DECRBY', bytes, size_sum)
      more[#more + 1] = form
    else
      call('DEL', bytes)
    end
  end
end
found[1] = table.concat(more)
return found
