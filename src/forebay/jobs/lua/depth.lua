-- ARGV: model. Reply: waiting, their bytes, running, microseconds that the oldest has waited.
local model = ARGV[1]
local waiting = call('ZCARD', base .. 'q:' .. model) + call('ZCARD', base .. 'd:' .. model)
local nbytes = waiting > 0 and math.max(0, call('HGET', base .. 'n', 'b:' .. model) or 0) or 0
local oldest = now_us
for level = 0, 2 do
  local first = call('ZRANGE', base .. 'q:' .. model, string.format('%.0f', level * LEVEL), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  if #first > 0 then
    oldest = math.min(oldest, first[2] % LEVEL)
  end
end
return { waiting, nbytes, call('ZCARD', base .. 'r:' .. model), now_us - oldest }
