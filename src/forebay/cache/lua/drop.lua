-- KEYS[1] base; has a tenant (0 or 1), tenant, model, version, tag (between two NUL; empty: any), digests to look at.
-- Returns how many were forgotten.
local base, gone = KEYS[1], 0
for at = 6, #ARGV do
  local digest = ARGV[at]
  local found = redis.call('HMGET', base .. 'e:' .. digest, 'm', 'n', 't', 'g')
  if found[1] and (ARGV[1] == '0' or found[3] == ARGV[2]) and (ARGV[3] == '' or found[1] == ARGV[3])
    and (ARGV[4] == '' or found[2] == ARGV[4]) and (ARGV[5] == '' or string.find(found[4], ARGV[5], 1, true)) then
    local size = redis.call('HGET', base .. 'sizes', digest)
    redis.call('DEL', base .. 'e:' .. digest)
    redis.call('ZREM', base .. 'order', digest)
    redis.call('HDEL', base .. 'sizes', digest)
    if size then
      redis.call('DECRBY', base .. 'bytes', size)
    end
    gone = gone + 1
  end
end
return gone
