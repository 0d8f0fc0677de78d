-- ARGV: group, consumer, then of each entry: number of its stream, entry, id. Answers for each whether it is one's own.
local held = {}
for i = 3, #ARGV, 3 do
  local stream, entry = KEYS[2 * ARGV[i] - 1], ARGV[i + 1]
  if own(stream, entry) then
    held[#held + 1] = #redis.call('XCLAIM', stream, group, consumer, 0, entry, 'JUSTID')
  else
    held[#held + 1] = 0
  end
end
return held
