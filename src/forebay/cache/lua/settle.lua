-- KEYS[1] base; digests, each with its claim. Returns the digests that somebody waits for; the claims on the others end.
local base, waited = KEYS[1], {}
for at = 1, #ARGV, 2 do
  local digest = ARGV[at]
  if redis.call('EXISTS', base .. 'w:' .. digest) == 1 then
    waited[#waited + 1] = digest
  elseif redis.call('GET', base .. 'c:' .. digest) == ARGV[at + 1] then
    redis.call('DEL', base .. 'c:' .. digest)
  end
end
return waited
