-- What the scripts share. It stands before each of them.
--
-- KEYS[1] is the shard's prefix, such as forebay:{s0}: and every key begins with it:
--   j:ID   hash, a job:  s state (q r s f c x; G gone, D deleted: w is all that is left)
--          w terms, as terms_of reads them  c order: microseconds of its acceptance, ascending  d envelope
--          b body; empty once it has ended otherwise than failed  T latest start (ms)  k digest of its Idempotency-Key
--          a attempt  e events so far: both only where they are not those of a job's first way through its states
--          n the last claim: when it started (ms, a double), nonce  z nonce and kind of the last finish that was no end
--          r number of its running event, if not 2; 0: there is none  p progress  u partials told
--          F its end: when it finished (ms, a double), kind of the finish or -, metrics  o output  O its form  E error
--   Few fields: each that is added to a hash is one more move of all of it.
--   e:ID   list, events that the record itself does not tell: attempts that ended, progress, pieces
--   k:DIGEST  string, an Idempotency-Key: id and fingerprint
--   q:MODEL   sorted set, to be run, by level and order; where another broker carries jobs, by level and since when they
--             are free to be run (microseconds)             d:MODEL  delayed, by when they are due
--   r:MODEL   running, by the end of their lease            x  finished, by the end of their retention
--   t      queued ones that expire, by latest start         dead  failed ones        i:TENANT  all of a tenant's
--   models, tenants  sets of names       n  hash: last order; epoch, of its first use; bytes that wait, and since when
--   it is full, by model; where another broker carries jobs, when the youngest was accepted that was claimed so far,
--   by level and model (y:)
--   webhooks  ended ones whose webhook is to be called, by when that is due     tries  hash: how often each failed
--   lock   who reaps                     changes  the channel
-- ID is the 16 bytes of the UUID. A job is in exactly one of q, d, r and x.
local call, base = redis.call, KEYS[1]
local clock = CLOCK
local BROKERED = false
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)
local LEVEL = 3e15
local jobs, packed_now = base .. 'j:', struct.pack('>d', now)

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

-- What does not change of a job, as it was submitted. Many jobs share it: it is unpacked once a call.
local known_terms = {}

local function terms_of(words)
  local found = known_terms[words]
  if not found then
    local model, level, tenant, ttl, retention, attempts = unpack(cmsgpack.unpack(words))
    local most = tonumber(attempts)
    found = {
      model = model, level = level, tenant = tenant, ttl = ttl, retention = retention,
      attempts = most or tonumber(attempts:sub(1, -2)), hook = not most,
    }
    known_terms[words] = found
  end
  return found
end

-- Attempt and events so far of a job that went straight through its states, which are not stored.
local FIRST_EVENTS = { q = 1, r = 2, s = 3, f = 3, c = 3, x = 3 }

local function first_attempt(state)
  return state == 'q' and 0 or 1
end

local function counts(state, attempt, sequence)
  return tonumber(attempt or first_attempt(state)), tonumber(sequence or FIRST_EVENTS[state])
end

local function milliseconds_of(words)
  return words and (struct.unpack('>d', words))
end

local function record(id)
  local f = call('HMGET', jobs .. id, 's', 'w', 'a', 'e', 'n', 'F', 'c', 'T', 'k')
  local terms = f[2] and terms_of(f[2]) or {}
  local attempt, sequence = counts(f[1], f[3], f[4])
  return {
    id = id, key = jobs .. id, state = f[1], words = f[2], model = terms.model, level = terms.level, tenant = terms.tenant,
    attempts = terms.attempts, hook = terms.hook, retention = terms.retention, attempt = attempt, sequence = sequence,
    counted = f[3] or f[4], nonce = f[5] and f[5]:sub(9), finished = milliseconds_of(f[6]), order = f[7], latest = f[8],
    digest = f[9],
  }
end

local function is_over(state)
  return state == 's' or state == 'f' or state == 'c' or state == 'x'
end

-- What this call made free to be run; where another broker carries jobs, each needs a message.
local freed = {}

local function enqueue(id, model, level, order)
  if BROKERED then
    order = now_us
    freed[#freed + 1] = id
  end
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
  if job.counted or job.sequence ~= FIRST_EVENTS[state] or job.attempt ~= first_attempt(state) then
    call('HSET', job.key, 's', state, 'a', job.attempt, 'e', job.sequence, ...)
  else
    call('HSET', job.key, 's', state, ...)
  end
  changed(job.id, state, job.sequence, job.model)
end

-- The body of a failed job is kept: it may be run again as another job. `job.ending`: kind of the finish, metrics.
local function finish(job, state, ...)
  leave(job)
  local ending = packed_now .. (job.ending or '-')
  if state == 'f' then
    move(job, state, 'F', ending, ...)
    add('dead', 0, job.id)
  else
    -- An empty field in the same command: to remove it takes as long as all else that is done here.
    move(job, state, 'F', ending, 'b', '', ...)
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
  move(job, 'q', 'r', 0, ...)
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
  call('HSET', job.key, 's', why, 'w', job.words)
  call('PEXPIRE', job.key, math.max(job.retention, 3600000))
end

local function kept(state, finished, retention)
  return not is_over(state) or finished + retention > now
end

-- A job as readers see it: an array; its tenant for one that is gone; false for none.
local function show(id, output)
  local f = call('HMGET', jobs .. id, 's', 'w', 'd', 'c', 'a', 'e', 'n', 'F', 'p', 'E', output and 'o' or '-', 'O')
  if not f[1] or f[1] == 'D' then
    return false
  elseif f[1] == 'G' or not kept(f[1], milliseconds_of(f[8]), terms_of(f[2]).retention) then
    return f[2] and terms_of(f[2]).tenant or ''
  end
  f[5], f[6] = counts(f[1], f[5], f[6])
  return f
end
