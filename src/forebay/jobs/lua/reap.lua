-- ARGV: who asks, lock (ms), most of each kind, error of who fell silent, error of what is overdue.
-- Reply: which store this is, a word that a store makes up when it has none; 1 where the lock is held; requeued,
-- failed, released, expired, forgotten; 1 where there is more to do at once; 1 where the sorted sets do not hold every
-- job; where another broker carries jobs, the ids of those that need a message.
local owner, most = ARGV[1], tonumber(ARGV[3])
local epoch = call('HGET', base .. 'n', 'epoch')
if not epoch then
  epoch = owner .. now
  call('HSET', base .. 'n', 'epoch', epoch)
end
if call('GET', base .. 'lock') == owner then
  call('PEXPIRE', base .. 'lock', ARGV[2])
elseif not call('SET', base .. 'lock', owner, 'NX', 'PX', ARGV[2]) then
  return { epoch, 0 }
end
local requeued, failed, released, expired, forgotten, more = 0, 0, 0, 0, 0, 0
local models = call('SMEMBERS', base .. 'models')

local function due(key)
  local ids = call('ZRANGE', base .. key, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)
  if #ids == most then
    more = 1
  end
  return ids
end

local function silent(model)
  for _, id in ipairs(due('r:' .. model)) do
    local job = record(id)
    if job.state ~= 'r' then
      remove('r:' .. model, id)
    elseif job.attempt < job.attempts then
      requeue(job, 0, job.attempt)
      requeued = requeued + 1
    else
      finish(job, 'f', 'E', ARGV[4])
      failed = failed + 1
    end
  end
  flush()
end

local function delayed(model)
  for _, id in ipairs(due('d:' .. model)) do
    local job = record(id)
    remove('d:' .. model, id)
    if job.state == 'q' then
      enqueue(id, model, job.level, job.order)
      released = released + 1
    end
  end
  flush()
end

for _, model in ipairs(models) do
  silent(model)
  delayed(model)
end
for _, id in ipairs(due('t')) do
  local job = record(id)
  if job.state == 'q' then
    finish(job, 'x', 'E', ARGV[5])
    expired = expired + 1
  else
    remove('t', id)
  end
end
flush()
for _, id in ipairs(due('x')) do
  local job = record(id)
  if is_over(job.state) then
    forget(job, 'G')
    forgotten = forgotten + 1
  else
    remove('x', id)
  end
end
flush()

local indexed, held = 0, call('ZCARD', base .. 'x')
for _, tenant in ipairs(call('SMEMBERS', base .. 'tenants')) do
  indexed = indexed + call('ZCARD', base .. 'i:' .. tenant)
end
for _, model in ipairs(models) do
  held = held + call('ZCARD', base .. 'q:' .. model) + call('ZCARD', base .. 'd:' .. model)
    + call('ZCARD', base .. 'r:' .. model)
end
return { epoch, 1, requeued, failed, released, expired, forgotten, more, indexed > held and 1 or 0, freed }
