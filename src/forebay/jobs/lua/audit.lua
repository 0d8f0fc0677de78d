-- Puts jobs back into the sorted sets that lost them. ARGV: tenant, id to begin behind (or ''), most to look at.
-- Reply: the id that was looked at last ('' at the end), how many were queued anew, and as in reap their ids.
local tenant, most, republished = ARGV[1], tonumber(ARGV[3]), 0
local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
local ids = call('ZRANGE', base .. 'i:' .. tenant, from, '+', 'BYLEX', 'LIMIT', 0, most)

local function holds(key, id)
  return call('ZSCORE', base .. key, id)
end

for _, id in ipairs(ids) do
  local job = record(id)
  if job.state == 'q' then
    if not holds('q:' .. job.model, id) and not holds('d:' .. job.model, id) then
      call('SADD', base .. 'models', job.model)
      enqueue(id, job.model, job.level, job.order)
      republished = republished + 1
    end
  elseif job.state == 'r' then
    if not holds('r:' .. job.model, id) then
      call('SADD', base .. 'models', job.model)
      add('r:' .. job.model, now, id)
    end
  elseif is_over(job.state) then
    if not holds('x', id) then
      add('x', job.finished + job.retention, id)
    end
  else
    remove('i:' .. tenant, id)
  end
end
flush()
return { #ids == most and ids[#ids] or '', republished, freed }
