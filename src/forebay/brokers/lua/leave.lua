-- ARGV: group, consumer, milliseconds. KEYS: streams. Forgets this consumer, and others that have not been heard of for
-- so long, where they hold nothing: what they hold would be lost with them.
for _, stream in ipairs(KEYS) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  for _, row in ipairs(consumers.err and {} or consumers) do
    local known = {}
    for i = 1, #row, 2 do
      known[row[i]] = row[i + 1]
    end
    if known.pending == 0 and (known.name == consumer or known.idle > tonumber(ARGV[3])) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, known.name)
    end
  end
end
return 0
