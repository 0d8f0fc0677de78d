-- Tell what a worker serves. ARGV: its id, how long that holds (ms), how many models, of each its name, and 16 digits
-- that change with its files before its versions (packed), then names of models that it serves no more.
--
-- KEYS[1] is the prefix of all keys:
--   workers  set of ids, perhaps of some that have fallen silent     order  counts announcements that were new
--   w:ID     hash, ends by itself: these by model, 16 digits of their order before them; '' is always there
--   last     hash: the last announcement of each model               news   the channel
local call, base = redis.call, KEYS[1]
local id, mine, count = ARGV[1], base .. 'w:' .. ARGV[1], tonumber(ARGV[3])

local before = {}
local flat = call('HGETALL', mine)
for at = 1, #flat, 2 do
  before[flat[at]] = flat[at + 1]
end

call('DEL', mine)
call('HSET', mine, '', '')
for n = 1, count do
  local name, packed = ARGV[2 + 2 * n], ARGV[3 + 2 * n]
  local entry = before[name]
  local order
  if entry and string.sub(entry, 17, 32) == string.sub(packed, 1, 16) then
    order = string.sub(entry, 1, 16)
  else
    order = string.format('%016d', call('INCR', base .. 'order'))
  end
  entry = order .. packed
  call('HSET', mine, name, entry)
  call('HSET', base .. 'last', name, entry)
end
call('PEXPIRE', mine, ARGV[2])
call('SADD', base .. 'workers', id)

local alive = {}
for _, other in ipairs(call('SMEMBERS', base .. 'workers')) do
  if call('EXISTS', base .. 'w:' .. other) == 1 then
    alive[#alive + 1] = other
  else
    call('SREM', base .. 'workers', other)
  end
end
for at = 4 + 2 * count, #ARGV do
  local served = false
  for _, other in ipairs(alive) do
    served = served or call('HEXISTS', base .. 'w:' .. other, ARGV[at]) == 1
  end
  if not served then
    call('HDEL', base .. 'last', ARGV[at])
  end
end
call('PUBLISH', base .. 'news', id)
