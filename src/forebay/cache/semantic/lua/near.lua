-- The nearest texts, best first: id, score and text of each. ARGV: partition, vector, how many, effort of the search.
local partition = ARGV[1]
if not used(partition) then return {} end
local found =
  redis.call('VSIM', base .. 'v:' .. partition, 'FP32', ARGV[2], 'WITHSCORES', 'COUNT', ARGV[3], 'EF', ARGV[4])
local answer = {}
for place = 1, #found, 2 do
  local kept = redis.call('HGET', base .. 't:' .. partition, found[place])
  if kept then
    local _, _, _, _, text = read(kept)
    answer[#answer + 1] = found[place]
    answer[#answer + 1] = found[place + 1]
    answer[#answer + 1] = text
  end
end
return answer
