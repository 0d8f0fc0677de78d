-- KEYS[1] base; ms that a claim stands, how many are computed, then these digests and those that are asked for, each
-- with a claim (empty: none is wanted).
-- Returns for each that is asked for {1, value, age ms, ms that it is fresh, ms until its end}, {2, ms until the other's
-- claim ends}, or {0}; and the computed digests that somebody waits for. The claims on the other computed ones end.
local base, claim_ms, answers, waited = KEYS[1], ARGV[1], {}, {}
local asked_at = 3 + 2 * tonumber(ARGV[2])

local function settle(digest, claim)
  if redis.call('EXISTS', base .. 'w:' .. digest) == 1 then
    waited[#waited + 1] = digest
  elseif redis.call('GET', base .. 'c:' .. digest) == claim then
    redis.call('DEL', base .. 'c:' .. digest)
  end
end

local function look(digest, claim, now)
  local kept = base .. 'e:' .. digest
  local found = redis.call('HMGET', kept, 'v', 'since', 'fresh')
  if found[1] then
    redis.call('ZADD', base .. 'order', 'XX', now, digest)
    -- This clock may have been set back, or be that of a store that was behind the one before it.
    local age = math.max(0, now - tonumber(found[2]))
    return {1, found[1], age, tonumber(found[3]) - age, redis.call('PTTL', kept)}
  end
  local held = base .. 'c:' .. digest
  if claim == '' or redis.call('SET', held, claim, 'NX', 'PX', claim_ms) then
    return {0}
  end
  redis.call('SET', base .. 'w:' .. digest, '1', 'PX', claim_ms * 4)
  return {2, redis.call('PTTL', held)}
end

for at = 3, asked_at - 1, 2 do
  settle(ARGV[at], ARGV[at + 1])
end
if asked_at < #ARGV then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for at = asked_at, #ARGV, 2 do
    answers[#answers + 1] = look(ARGV[at], ARGV[at + 1], now)
  end
end
return {answers, waited}
