-- ARGV: most jobs, most bytes, then for each job: id, envelope, body, digest of its key, fingerprint, model, level,
-- tenant, ttl (ms, or ''), retention (ms), most attempts.
-- Reply: for each an outcome (c created, p replayed, m mismatch, f full), an id, and milliseconds (f: full for so long).
local most_jobs, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local counters = base .. 'n'
local order = math.max(now_us, (call('HGET', counters, 'last') or 0) + 1)
local loads, tenants, replies = {}, {}, {}

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

local function tell(outcome, id, ms)
  replies[#replies + 1] = outcome .. id .. struct.pack('>d', ms)
end

local function created_ms(id)
  return math.floor((call('HGET', base .. 'j:' .. id, 'c') or 0) / 1000)
end

-- Whether a job or its key is known already; then it is told.
local function known(id, digest, fingerprint)
  local held = digest ~= '' and call('GET', base .. 'k:' .. digest)
  local other = held and held:sub(1, 16) or id
  local state = call('HGET', base .. 'j:' .. other, 's')
  if held and not state then
    held, other = false, id
    state = call('HGET', base .. 'j:' .. id, 's')
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

for i = 3, #ARGV, 11 do
  local id, envelope, body, digest, fingerprint = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local model, level, tenant, ttl = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7], ARGV[i + 8]
  if not known(id, digest, fingerprint) then
    local load = load_of(model)
    if load.waiting >= most_jobs or load.nbytes + #body > most_bytes then
      if not load.full_since then
        load.full_since = now
        call('HSET', counters, 'f:' .. model, now)
      end
      tell('f', id, now - load.full_since)
    else
      local key = base .. 'j:' .. id
      call('HSET', key, 's', 'q', 'm', model, 't', tenant, 'c', order, 'x', ARGV[i + 10], 'R', ARGV[i + 9],
        'd', envelope, 'b', body)
      if level ~= '1' then
        call('HSET', key, 'v', level)
      end
      if ttl ~= '' then
        call('HSET', key, 'T', now + ttl)
        add('t', now + ttl, id)
      end
      if digest ~= '' then
        call('HSET', key, 'k', digest)
        call('SET', base .. 'k:' .. digest, id .. fingerprint)
      end
      if not tenants[tenant] then
        tenants[tenant] = true
        call('SADD', base .. 'tenants', tenant)
      end
      add('i:' .. tenant, 0, id)
      enqueue(id, model, level, order)
      count_bytes(model, #body)
      changed(id, 'q', 1, model)
      load.waiting, load.nbytes = load.waiting + 1, load.nbytes + #body
      tell('c', id, math.floor(order / 1000))
      order = order + 1
    end
  end
end
call('HSET', counters, 'last', order - 1)
flush()
return table.concat(replies)
