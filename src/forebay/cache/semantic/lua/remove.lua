-- Forget a text. ARGV: id.
local kept = redis.call('HGET', KEYS[2], ARGV[1])
if kept then
  redis.call('HDEL', KEYS[3], string.sub(kept, 1, string.find(kept, '\n', 1, true) - 1))
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('VREM', KEYS[1], ARGV[1])
end
