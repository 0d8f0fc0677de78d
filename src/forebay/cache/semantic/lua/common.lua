-- Before every script. KEYS[1]: base of all keys, which are in one slot of a cluster.
-- Of each partition P: `v:P` a vector set by id; `t:P` id to what is kept of it, five parts with a line feed between two:
-- what it counts for in bytes, its answer's digest in hex, tags (each between two NUL), normalised form, text; `n:P`
-- normalised form to id; `o:P` ids by when they were added. These expire together.
-- Of all, and gone where nothing at all is added for so long: `used` partitions by their last use, `sizes` what each
-- counts for, `bytes` the sum, `about` whose each is (tenant, model and version, with a line feed between two), `number`
-- what uses and additions are numbered by.
local base = KEYS[1]
-- What a text takes beside its characters, how often its id is held, and what a partition takes, about: so it was
-- measured with Redis 8.0.
local TEXT_BYTES, ID_COPIES, PARTITION_BYTES = 1300, 6, 3800

local function next_number()
  return redis.call('INCR', base .. 'number')
end

local function read(kept)
  return string.match(kept, '^(%d+)\n(%x*)\n([^\n]*)\n([^\n]*)\n(.*)$')
end

local function count(partition, bytes)
  redis.call('HINCRBY', base .. 'sizes', partition, bytes)
  return redis.call('INCRBY', base .. 'bytes', bytes)
end

local function drop(partition)
  redis.call('UNLINK', base .. 'v:' .. partition, base .. 't:' .. partition, base .. 'n:' .. partition,
    base .. 'o:' .. partition)
  redis.call('ZREM', base .. 'used', partition)
  redis.call('HDEL', base .. 'about', partition)
  local size = redis.call('HGET', base .. 'sizes', partition)
  if size then
    redis.call('HDEL', base .. 'sizes', partition)
    redis.call('DECRBY', base .. 'bytes', size)
  end
end

-- A partition without any text is nothing to remember: they come with every value of a parameter.
local function forget(partition, id)
  local texts = base .. 't:' .. partition
  local kept = redis.call('HGET', texts, id)
  if not kept then return end
  local bytes, _, _, normal = read(kept)
  redis.call('HDEL', base .. 'n:' .. partition, normal)
  redis.call('HDEL', texts, id)
  redis.call('ZREM', base .. 'o:' .. partition, id)
  redis.call('VREM', base .. 'v:' .. partition, id)
  count(partition, -bytes)
  if redis.call('EXISTS', texts) == 0 then drop(partition) end
end

-- Note a use; whether there is anything.
local function used(partition)
  if redis.call('EXISTS', base .. 't:' .. partition) == 1 then
    redis.call('ZADD', base .. 'used', 'XX', next_number(), partition)
    return true
  end
  if redis.call('ZSCORE', base .. 'used', partition) then drop(partition) end
  return false
end
