-- Begins attempts of jobs that messages tell of. ARGV: lease (ms), error of what is overdue, error of who fell silent,
-- then for each: id, nonce, 1 where what was asked for is wanted.
-- Reply: for each the number of its attempt, or that with envelope and body; 0: it is not to be run; -1: not known.
local lease, overdue, silent = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local replies, youngest = {}, {}

-- What the reaper would do, where it has not come by yet.
local function seize(id, state)
  local job = record(id)
  if state == 'q' then
    remove('d:' .. job.model, id)
    enqueue(id, job.model, job.level, job.order)
  elseif job.attempt < job.attempts then
    requeue(job, 0, job.attempt)
  else
    finish(job, 'f', 'E', silent)
  end
  flush()
end

-- Since when a job is free to be run, as its score; false where it is not.
local function free_since(id, state, model)
  local score = state == 'q' and call('ZSCORE', base .. 'q:' .. model, id)
  if not score and (state == 'q' or state == 'r') then
    local due = call('ZSCORE', base .. (state == 'q' and 'd:' or 'r:') .. model, id)
    -- One that runs and has no end of its lease yet was claimed a line above.
    if due and tonumber(due) <= now or not due and state == 'q' then
      seize(id, state)
      score = call('ZSCORE', base .. 'q:' .. model, id)
    end
  end
  return score and tonumber(score)
end

local function claim(id, nonce, wanted)
  local key = jobs .. id
  local f = call('HMGET', key, 's', 'w')
  if not f[1] then
    return -1
  end
  local terms = terms_of(f[2])
  local model, score = terms.model, free_since(id, f[1], terms.model)
  if not score then
    return 0
  end
  f = call('HMGET', key, 'a', 'e', 'T', 'c')
  if f[3] then
    if tonumber(f[3]) <= now then
      finish(record(id), 'x', 'E', overdue)
      return 0
    end
    remove('t', id)
  end
  local attempt, sequence = (f[1] or 0) + 1, (f[2] or 1) + 1
  if sequence > 2 then
    call('HSET', key, 's', 'r', 'n', packed_now .. nonce, 'a', attempt, 'e', sequence, 'r', sequence)
  else
    call('HSET', key, 's', 'r', 'n', packed_now .. nonce)
  end
  remove('q:' .. model, id)
  add('r:' .. model, now + lease, id)
  count_bytes(model, -call('HSTRLEN', key, 'b'))
  changed(id, 'r', sequence, model)
  local place = 'y:' .. terms.level .. ':' .. model
  -- Not since it is free: what was given back is claimed before what has waited for longer, and passes nothing by.
  youngest[place] = math.max(youngest[place] or 0, tonumber(f[4]) or 0)
  if not wanted then
    return attempt
  end
  local asked = call('HMGET', key, 'd', 'b')
  return { attempt, asked[1], asked[2] or '' }
end

for i = 4, #ARGV, 3 do
  -- At once: what one does counts for the next, which may be the same job.
  replies[#replies + 1] = claim(ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1')
end
flush()
for place, since in pairs(youngest) do
  if since > tonumber(call('HGET', base .. 'n', place) or 0) then
    call('HSET', base .. 'n', place, string.format('%.0f', since))
  end
end
return replies
