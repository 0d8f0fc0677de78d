-- KEYS[1] base; ms that a claim stands, then digests, each with a claim (empty: none is wanted).
-- Returns for each {1, value, age ms, ms that it is fresh, ms until its end}, {2, ms until the other's claim ends}, or
-- {0}.
local base, claim_ms, answers = KEYS[1], ARGV[1], {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function look(digest, claim)
  local kept = base .. 'e:' .. digest
  local found = redis.call('HMGET', kept, 'v', 'since', 'fresh')
  if found[1] then
    redis.call('ZADD', base .. 'order', 'XX', now, digest)
    local age = now - tonumber(found[2])
    return {1, found[1], age, tonumber(found[3]) - age, redis.call('PTTL', kept)}
  end
  local held = base .. 'c:' .. digest
  if claim == '' or redis.call('SET', held, claim, 'NX', 'PX', claim_ms) then
    return {0}
  end
  redis.call('SET', base .. 'w:' .. digest, '1', 'PX', claim_ms * 4)
  return {2, redis.call('PTTL', held)}
end

for at = 2, #ARGV, 2 do
  answers[#answers + 1] = look(ARGV[at], ARGV[at + 1])
end
return answers
