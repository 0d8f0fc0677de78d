-- Keep a text. ARGV: id, text, normalised form, vector, most entries, life in milliseconds.
-- KEYS: vector set by id; id to normalised form, a line feed, text; normalised form to id.
local vectors, texts, normals = KEYS[1], KEYS[2], KEYS[3]
local id, text, normal = ARGV[1], ARGV[2], ARGV[3]

local function forget(gone)
  local kept = redis.call('HGET', texts, gone)
  if kept then
    redis.call('HDEL', normals, string.sub(kept, 1, string.find(kept, '\n', 1, true) - 1))
    redis.call('HDEL', texts, gone)
    redis.call('VREM', vectors, gone)
  end
end

forget(id)
local twin = redis.call('HGET', normals, normal)
if twin then forget(twin) end
if redis.call('HLEN', texts) >= tonumber(ARGV[5]) then
  local chosen = redis.call('HRANDFIELD', texts)
  if chosen then forget(chosen) end
end
redis.call('VADD', vectors, 'FP32', ARGV[4], id, 'NOQUANT')
redis.call('HSET', texts, id, normal .. '\n' .. text)
redis.call('HSET', normals, normal, id)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[6]) end
