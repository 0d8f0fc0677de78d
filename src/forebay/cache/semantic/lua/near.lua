-- The nearest texts, best first: id, score and text of each. ARGV: vector, how many, effort of the search.
local found = redis.call('VSIM', KEYS[1], 'FP32', ARGV[1], 'WITHSCORES', 'COUNT', ARGV[2], 'EF', ARGV[3])
local answer = {}
for place = 1, #found, 2 do
  local kept = redis.call('HGET', KEYS[2], found[place])
  if kept then
    answer[#answer + 1] = found[place]
    answer[#answer + 1] = found[place + 1]
    answer[#answer + 1] = string.sub(kept, string.find(kept, '\n', 1, true) + 1)
  end
end
return answer
