-- ARGV: most jobs, most bytes, then for each job: its id with, where it has a key, that key's digest and fingerprint
-- behind; its terms; envelope; body.
-- Terms are msgpack, the same for jobs alike: model, level, tenant, ttl (ms, or false), retention (ms), most attempts
-- (with a w behind where there is a webhook).
-- Reply: for each an outcome (c created, p replayed, m mismatch, f full), an id, and milliseconds (f: full for so long).
local most_jobs, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local counters = base .. 'n'
local order = math.max(now_us, (call('HGET', counters, 'last') or 0) + 1)
local loads, replies, milliseconds = {}, {}, {}

local function load_of(model)
  local load = loads[model]
  if not load then
    local known = call('HMGET', counters, 'b:' .. model, 'f:' .. model)
    local waiting = call('ZCARD', base .. 'q:' .. model) + call('ZCARD', base .. 'd:' .. model)
    load = { waiting = waiting, nbytes = tonumber(known[1] or 0), full_since = tonumber(known[2] or nil) }
    if waiting == 0 and load.nbytes ~= 0 then
      call('HDEL', counters, 'b:' .. model)
      load.nbytes = 0
    end
    if load.full_since and waiting * 2 <= most_jobs and load.nbytes * 2 <= most_bytes then
      call('HDEL', counters, 'f:' .. model)
      load.full_since = nil
    end
    loads[model] = load
    call('SADD', base .. 'models', model)
  end
  return load
end

-- What jobs of the same terms share.
local function kind_of(words)
  local kind = terms_of(words)
  if not kind.load then
    kind.load, kind.index = load_of(kind.model), 'i:' .. kind.tenant
  end
  return kind
end

local function tell(outcome, id, ms)
  local packed = milliseconds[ms]
  if not packed then
    packed = struct.pack('>d', ms)
    milliseconds[ms] = packed
  end
  local n = #replies
  replies[n + 1], replies[n + 2], replies[n + 3] = outcome, id, packed
end

local function created_ms(id)
  return math.floor((call('HGET', jobs .. id, 'c') or 0) / 1000)
end

-- Whether a job or its key is known already; then it is told.
local function known(id, digest, fingerprint)
  local held = digest ~= '' and call('GET', base .. 'k:' .. digest)
  local other = held and held:sub(1, 16) or id
  local state = call('HGET', jobs .. other, 's')
  if held and not state then
    held, other = false, id
    state = call('HGET', jobs .. id, 's')
  end
  if not state then
    return false
  end
  if is_over(state) then
    local job = record(other)
    if not kept(state, job.finished, job.retention) then
      forget(job, 'G')
      flush()
      return known(id, digest, fingerprint)
    end
  end
  tell(held and held:sub(17) ~= fingerprint and 'm' or 'p', other, created_ms(other))
  return true
end

local function refuse(id, kind)
  local load = kind.load
  if not load.full_since then
    load.full_since = now
    call('HSET', counters, 'f:' .. kind.model, now)
  end
  tell('f', id, now - load.full_since)
end

local function create(id, kind, words, envelope, body, digest, fingerprint)
  local key, load = jobs .. id, kind.load
  call('HSET', key, 's', 'q', 'w', words, 'c', order, 'd', envelope, 'b', body)
  if kind.ttl then
    call('HSET', key, 'T', now + kind.ttl)
    add('t', now + kind.ttl, id)
  end
  if digest ~= '' then
    call('HSET', key, 'k', digest)
    call('SET', base .. 'k:' .. digest, id .. fingerprint)
  end
  if not kind.indexed then
    kind.indexed = true
    call('SADD', base .. 'tenants', kind.tenant)
  end
  add(kind.index, 0, id)
  enqueue(id, kind.model, kind.level, order)
  count_bytes(kind.model, #body)
  changed(id, 'q', 1, kind.model)
  load.waiting, load.nbytes = load.waiting + 1, load.nbytes + #body
  tell('c', id, math.floor(order / 1000))
  order = order + 1
end

-- Whether all ids are new and none has a key, which is seen by one command.
local function all_new()
  local keys, seen = {}, {}
  for i = 3, #ARGV, 4 do
    local id = ARGV[i]
    if #id > 16 or seen[id] then
      return false
    end
    seen[id] = true
    keys[#keys + 1] = jobs .. id
  end
  return call('EXISTS', unpack(keys)) == 0
end

local new = all_new()
for i = 3, #ARGV, 4 do
  local id, digest, fingerprint = ARGV[i], '', ''
  if #id > 16 then
    id, digest, fingerprint = id:sub(1, 16), id:sub(17, 32), id:sub(33)
  end
  if new or not known(id, digest, fingerprint) then
    local kind, body = kind_of(ARGV[i + 1]), ARGV[i + 3]
    if kind.load.waiting >= most_jobs or kind.load.nbytes + #body > most_bytes then
      refuse(id, kind)
    else
      create(id, kind, ARGV[i + 1], ARGV[i + 2], body, digest, fingerprint)
    end
  end
end
call('HSET', counters, 'last', order - 1)
flush()
return table.concat(replies)
