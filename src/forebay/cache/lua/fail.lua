-- KEYS[1] base; digest, claim, error.
local base, digest = KEYS[1], ARGV[1]
local held = base .. 'c:' .. digest
if redis.call('GET', held) ~= ARGV[2] then
  return 0
end
redis.call('DEL', held)
if redis.call('DEL', base .. 'w:' .. digest) == 1 then
  redis.call('PUBLISH', base .. 'news', 'f' .. digest .. ARGV[3])
end
return 1
