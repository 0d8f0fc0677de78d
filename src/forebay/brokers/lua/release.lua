-- ARGV and KEYS as of extend. What is given back goes to the end of its stream: that wakes who waits for it.
for i = 3, #ARGV, 3 do
  local stream, ids, entry, id = KEYS[2 * ARGV[i] - 1], KEYS[2 * ARGV[i]], ARGV[i + 1], ARGV[i + 2]
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if drop(stream, ids, entry, id) and found then
    redis.call('HSET', ids, id, redis.call('XADD', stream, '*', unpack(found[2])))
  end
end
return 0
