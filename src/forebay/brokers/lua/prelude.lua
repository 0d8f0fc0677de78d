local group, consumer = ARGV[1], ARGV[2]

-- The answer of a command on a group, which is made where there is none (a new stream, or all was flushed).
local function grouped(stream, ...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and string.find(answer.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    answer = redis.pcall(...)
  end
  if type(answer) == 'table' and answer.err then
    error(answer)
  end
  return answer
end

-- Whether an entry is held by this consumer.
local function own(stream, entry)
  local found = redis.pcall('XPENDING', stream, group, entry, entry, 1, consumer)
  return found.err == nil and #found > 0
end

-- Be done with an entry; false where it is not one's own.
local function drop(stream, ids, entry, id)
  if not own(stream, entry) then
    return false
  end
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
  if redis.call('HGET', ids, id) == entry then
    redis.call('HDEL', ids, id)
  end
  return true
end
