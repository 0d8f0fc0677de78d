-- KEYS[1] base; ms that a claim stands, then digests and claims.
for at = 2, #ARGV, 2 do
  local held = KEYS[1] .. 'c:' .. ARGV[at]
  if redis.call('GET', held) == ARGV[at + 1] then
    redis.call('PEXPIRE', held, ARGV[1])
  end
end
return 1
