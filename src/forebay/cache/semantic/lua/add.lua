-- Keep a text. ARGV: partition, id, text, normalised form, vector, digest in hex, tags (each between two NUL), whose it is
-- (as in `about`), most texts of a partition, most bytes of all, life in milliseconds.
local partition, id, text, normal, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local vectors, texts, normals, order =
  base .. 'v:' .. partition, base .. 't:' .. partition, base .. 'n:' .. partition, base .. 'o:' .. partition

used(partition)
forget(partition, id)
local twin = redis.call('HGET', normals, normal)
if twin then forget(partition, twin) end
while redis.call('HLEN', texts) >= tonumber(ARGV[9]) do
  local oldest = redis.call('ZRANGE', order, 0, 0)[1] or redis.call('HRANDFIELD', texts)
  redis.call('ZREM', order, oldest)
  forget(partition, oldest)
end
redis.call('VADD', vectors, 'FP32', vector, id, 'NOQUANT')
if redis.call('EXISTS', texts) == 0 then
  redis.call('HSET', base .. 'about', partition, ARGV[8])
  count(partition, PARTITION_BYTES)
end
local bytes = TEXT_BYTES + #vector + #text + 2 * #normal + ID_COPIES * #id + #ARGV[7]
redis.call('HSET', texts, id, table.concat({ bytes, ARGV[6], ARGV[7], normal, text }, '\n'))
redis.call('HSET', normals, normal, id)
redis.call('ZADD', order, next_number(), id)
redis.call('ZADD', base .. 'used', next_number(), partition)
count(partition, bytes)
for _, key in ipairs({ vectors, texts, normals, order }) do redis.call('PEXPIRE', key, ARGV[11]) end
for _, name in ipairs({ 'used', 'sizes', 'bytes', 'about', 'number' }) do
  redis.call('PEXPIRE', base .. name, ARGV[11])
end

-- Those whose time is over still count: a few of those that were not used for longest are looked at each time.
for _, old in ipairs(redis.call('ZRANGE', base .. 'used', 0, 1)) do
  if redis.call('EXISTS', base .. 't:' .. old) == 0 then drop(old) end
end
while tonumber(redis.call('GET', base .. 'bytes')) > tonumber(ARGV[10]) do
  local last = redis.call('ZRANGE', base .. 'used', 0, 0)[1]
  if not last then break end
  if last ~= partition then
    drop(last)
  else
    local oldest = redis.call('ZRANGE', order, 0, 0)[1] or id
    redis.call('ZREM', order, oldest)
    forget(partition, oldest)
  end
end
