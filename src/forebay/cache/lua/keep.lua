-- KEYS[1] base; digest, claim, admitted (0 or 1), value, model, version, tenant, tags (each between two NUL), ms that
-- it is fresh, ms that it lives, ms that it lives where it is only waited for, most bytes of all, the number of drops
-- that it comes after (empty: of all), what an answer counts for beside its value and tags, its age in ms. An answer
-- from before a drop is not kept (-1).
local base, digest = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local order, sizes = base .. 'order', base .. 'sizes'

local function forget(gone)
  local size = redis.call('HGET', sizes, gone)
  redis.call('DEL', base .. 'e:' .. gone)
  redis.call('ZREM', order, gone)
  if size then
    redis.call('HDEL', sizes, gone)
    redis.call('DECRBY', base .. 'bytes', size)
  end
end

local held = base .. 'c:' .. digest
if redis.call('GET', held) == ARGV[2] then
  redis.call('DEL', held)
end
local waited = redis.call('DEL', base .. 'w:' .. digest) == 1
if ARGV[13] ~= '' and redis.call('GET', base .. 'drops') ~= ARGV[13] then
  if waited then
    redis.call('PUBLISH', base .. 'news', 'f' .. digest)
  end
  return -1
end
if ARGV[3] == '0' and not waited then
  return 0
end
local fresh, life, age = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[15])
if ARGV[3] == '0' then
  life = math.min(life, tonumber(ARGV[11]))
  fresh = life
end
forget(digest)
redis.call('HSET', base .. 'e:' .. digest, 'v', ARGV[4], 'since', now - age, 'fresh', age + fresh,
  'm', ARGV[5], 'n', ARGV[6], 't', ARGV[7], 'g', ARGV[8])
redis.call('PEXPIRE', base .. 'e:' .. digest, life)
redis.call('ZADD', order, now, digest)
local size = #ARGV[4] + #ARGV[8] + tonumber(ARGV[14])
redis.call('HSET', sizes, digest, size)
local total = redis.call('INCRBY', base .. 'bytes', size)
-- Those whose time is over still stand in the order: a few of the oldest are looked at each time.
for _, old in ipairs(redis.call('ZRANGE', order, 0, 1)) do
  if old ~= digest and redis.call('EXISTS', base .. 'e:' .. old) == 0 then
    forget(old)
  end
end
total = tonumber(redis.call('GET', base .. 'bytes'))
while total > tonumber(ARGV[12]) do
  local oldest = redis.call('ZRANGE', order, 0, 0)[1]
  if not oldest then
    break
  end
  forget(oldest)
  total = tonumber(redis.call('GET', base .. 'bytes'))
end
if waited then
  redis.call('PUBLISH', base .. 'news', 'k' .. digest)
end
return 1
