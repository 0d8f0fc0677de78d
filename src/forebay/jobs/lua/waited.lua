-- ARGV: milliseconds. Reply: the models that have jobs which have been free to be run, unclaimed, for so long.
local before, models = now_us - ARGV[1] * 1000, {}
for _, model in ipairs(call('SMEMBERS', base .. 'models')) do
  for level = 0, 2 do
    local from, to = string.format('%.0f', level * LEVEL), string.format('%.0f', level * LEVEL + before)
    if #call('ZRANGE', base .. 'q:' .. model, from, to, 'BYSCORE', 'LIMIT', 0, 1) > 0 then
      models[#models + 1] = model
      break
    end
  end
end
return models
