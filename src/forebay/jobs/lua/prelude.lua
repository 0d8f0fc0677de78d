-- What the scripts share. It stands before each of them.
--
-- KEYS[1] is the shard's prefix, such as forebay:{s0}: and every key begins with it:
--   j:ID   hash, a job:  s state (q r s f c x; G gone, D deleted: all that is left)  m model  v level, if not 1
--          t tenant  c order: microseconds of its acceptance, ascending  a attempt, if not 0
--          x most attempts, with a w behind where it has a webhook
--          e events so far, if not 1
--          R retention (ms)  T latest start (ms)  k digest of its Idempotency-Key  d envelope
--   b body; empty once it has ended otherwise than failed
--          n nonce of the last claim  z nonce and kind of the last finish that took effect  
--          r number of its running event, if not 2; 0: there is none
--          S started (ms)  F finished (ms)  p progress  u partials told  o output  O its form  E error  M metrics
--   e:ID   list, events that the record itself does not tell: attempts that ended, progress, pieces
--   k:DIGEST  string, an Idempotency-Key: id and fingerprint
--   q:MODEL   sorted set, to be run, by level and order     d:MODEL  delayed, by when they are due
--   r:MODEL   running, by the end of their lease            x  finished, by the end of their retention
--   t      queued ones that expire, by latest start         dead  failed ones        i:TENANT  all of a tenant's
--   models, tenants  sets of names       n  hash: last order; epoch, of its first use; bytes that wait, and since when
--   it is full, by model
--   webhooks  ended ones whose webhook is to be called, by when that is due     tries  hash: how often each failed
--   lock   who reaps                     changes  the channel
-- ID is the 16 bytes of the UUID. A job is in exactly one of q, d, r and x.
local call, base = redis.call, KEYS[1]
local clock = CLOCK
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)
local LEVEL = 3e15
local jobs = base .. 'j:'

-- Members of sorted sets to remove and to add, told many at once by flush().
local leaving, coming = {}, {}

local function remove(key, id)
  local list = leaving[key]
  if not list then
    list = {}
    leaving[key] = list
  end
  list[#list + 1] = id
end

local function add(key, score, id)
  local list = coming[key]
  if not list then
    list = {}
    coming[key] = list
  end
  list[#list + 1] = score
  list[#list + 1] = id
end

-- Changes to publish, by model and state; models that have new work; bytes that wait, by model.
local changes, work, waiting_bytes, numbers = {}, {}, {}, {}

local function packed(number)
  local found = numbers[number]
  if not found then
    found = struct.pack('>I4', number)
    numbers[number] = found
  end
  return found
end

local function changed(id, state, sequence, model)
  local states = changes[model]
  if not states then
    states = {}
    changes[model] = states
  end
  local list = states[state]
  if not list then
    list = {}
    states[state] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = id, packed(sequence)
end

local function count_bytes(model, nbytes)
  waiting_bytes[model] = (waiting_bytes[model] or 0) + nbytes
end

local function in_portions(command, lists)
  for key, list in pairs(lists) do
    for first = 1, #list, 4000 do
      call(command, base .. key, unpack(list, first, math.min(first + 3999, #list)))
    end
  end
end

-- The message: for each model whether it has new work, its name, how many states follow; for each of these its letter,
-- how many jobs, and for each of these its id and sequence.
local function publish()
  for model in pairs(work) do
    changes[model] = changes[model] or {}
  end
  if next(changes) == nil then
    return
  end
  local parts = {}
  for model, states in pairs(changes) do
    local at, count = #parts + 1, 0
    parts[at] = ''
    for state, list in pairs(states) do
      count = count + 1
      parts[#parts + 1] = state .. packed(#list / 2) .. table.concat(list)
    end
    parts[at] = struct.pack('>BH', work[model] and 1 or 0, #model) .. model .. string.char(count)
  end
  call('PUBLISH', base .. 'changes', table.concat(parts))
  changes, work = {}, {}
end

local function flush()
  in_portions('ZREM', leaving)
  in_portions('ZADD', coming)
  for model, nbytes in pairs(waiting_bytes) do
    if nbytes ~= 0 then
      call('HINCRBY', base .. 'n', 'b:' .. model, nbytes)
    end
  end
  leaving, coming, waiting_bytes = {}, {}, {}
  publish()
end

local function record(id)
  local key = jobs .. id
  local f = call('HMGET', key, 's', 'm', 'v', 't', 'c', 'a', 'e', 'x', 'R', 'T', 'k', 'n', 'F', 'z')
  local attempts, hook = tonumber(f[8]), false
  if f[8] and not attempts then
    attempts, hook = tonumber(f[8]:sub(1, -2)), true
  end
  return {
    id = id, key = key, state = f[1], model = f[2], level = f[3] or 1, tenant = f[4], order = f[5],
    attempt = tonumber(f[6] or 0), sequence = f[7] or 1, attempts = attempts, hook = hook, retention = f[9], latest = f[10], digest = f[11], nonce = f[12],
    finished = f[13], mark = f[14],
  }
end

local function is_over(state)
  return state == 's' or state == 'f' or state == 'c' or state == 'x'
end

local function enqueue(id, model, level, order)
  add('q:' .. model, level * LEVEL + order, id)
  work[model] = true
end

-- Out of the sorted sets of the state that it is in.
local function leave(job)
  if job.state == 'r' then
    remove('r:' .. job.model, job.id)
  elseif job.state == 'q' then
    remove('q:' .. job.model, job.id)
    remove('d:' .. job.model, job.id)
    count_bytes(job.model, -call('HSTRLEN', job.key, 'b'))
    if job.latest then
      remove('t', job.id)
    end
  else
    remove('x', job.id)
    if job.state == 'f' then
      remove('dead', job.id)
    end
  end
end

local function move(job, state, ...)
  job.state, job.sequence = state, job.sequence + 1
  call('HSET', job.key, 's', state, 'e', job.sequence, ...)
  changed(job.id, state, job.sequence, job.model)
end

-- The body of a failed job is kept: it may be run again as another job.
local function finish(job, state, ...)
  leave(job)
  if state == 'f' then
    move(job, state, 'F', now, ...)
    add('dead', 0, job.id)
  else
    -- An empty field in the same command: to remove it takes as long as all else that is done here.
    move(job, state, 'F', now, 'b', '', ...)
  end
  add('x', now + job.retention, job.id)
  if job.hook then
    add('webhooks', now, job.id)
  end
end

local function event(sequence, kind, state, attempt, progress, piece)
  return string.format('%d %s %s %d %s\n', sequence, kind, state, attempt, progress) .. piece
end

-- Another attempt. What the one that ends has told is of no more use to anybody.
local function requeue(job, delay, attempt, ...)
  leave(job)
  job.attempt = attempt
  move(job, 'q', 'a', attempt, 'r', 0, ...)
  local events = base .. 'e:' .. job.id
  local kept = {}
  -- Ends of earlier attempts come first, a hundred at most; behind them may be much.
  for _, entry in ipairs(call('LRANGE', events, 0, 99)) do
    if not entry:find('^%d+ s') then
      break
    end
    kept[#kept + 1] = entry
  end
  kept[#kept + 1] = event(job.sequence, 's', 'q', attempt, '0', '')
  call('DEL', events)
  call('RPUSH', events, unpack(kept, math.max(1, #kept - 99)))
  call('HDEL', job.key, 'p', 'u')
  count_bytes(job.model, call('HSTRLEN', job.key, 'b'))
  if job.latest then
    add('t', job.latest, job.id)
  end
  if delay > 0 then
    add('d:' .. job.model, now + delay, job.id)
  else
    enqueue(job.id, job.model, job.level, job.order)
  end
end

local function forget(job, why)
  leave(job)
  remove('i:' .. job.tenant, job.id)
  if job.digest and call('GETRANGE', base .. 'k:' .. job.digest, 0, 15) == job.id then
    call('DEL', base .. 'k:' .. job.digest)
  end
  if job.hook then
    remove('webhooks', job.id)
    call('HDEL', base .. 'tries', job.id)
  end
  call('UNLINK', job.key, base .. 'e:' .. job.id)
  call('HSET', job.key, 's', why)
  call('PEXPIRE', job.key, math.max(job.retention, 3600000))
end

local function kept(state, finished, retention)
  return not is_over(state) or finished + retention > now
end

-- A job as readers see it: an array; 'G' for one that is gone; false for none.
local function show(id, output)
  local f = call('HMGET', jobs .. id, 's', 'd', 'c', 'a', 'e', 'S', 'F', 'p', 'E', 'M', 'R', output and 'o' or '-', 'O', 'm', 't', 'x')
  if not f[1] or f[1] == 'D' then
    return false
  elseif f[1] == 'G' or not kept(f[1], f[7], f[11]) then
    return 'G'
  end
  return f
end
