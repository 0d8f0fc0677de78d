-- ARGV: group, consumer, then of each message: number of its stream, id, payload. KEYS: of each stream its key and that
-- of its ids. A message that waits already is not added again, so that this may be repeated.
for i = 3, #ARGV, 3 do
  local stream, ids = KEYS[2 * ARGV[i] - 1], KEYS[2 * ARGV[i]]
  local id, payload = ARGV[i + 1], ARGV[i + 2]
  local entry = redis.call('HGET', ids, id)
  local there = false
  if entry then
    local found = redis.call('XRANGE', stream, entry, entry)[1]
    if found and found[2][4] == payload then
      local pending = redis.pcall('XPENDING', stream, ARGV[1], entry, entry, 1)
      there = pending.err ~= nil or #pending == 0
    end
  end
  if not there then
    redis.call('HSET', ids, id, redis.call('XADD', stream, '*', 'id', id, 'payload', payload))
  end
end
return (#ARGV - 2) / 3
