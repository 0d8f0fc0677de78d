-- Records of jobs that are known from their messages alone. ARGV: for each: id, when it was created (ms), terms,
-- envelope, body. Reply as in extend; 0: its time is over, or it was known after all.
local replies = {}
for i = 1, #ARGV, 5 do
  local id, created, words = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local kind, key = terms_of(words), jobs .. ARGV[i]
  local revived = created + kind.retention > now and call('EXISTS', key) == 0
  if revived then
    call('HSET', key, 's', 'q', 'w', words, 'c', string.format('%.0f', created * 1000), 'd', ARGV[i + 3], 'b', ARGV[i + 4])
    if kind.ttl then
      call('HSET', key, 'T', created + kind.ttl)
      add('t', created + kind.ttl, id)
    end
    call('SADD', base .. 'models', kind.model)
    call('SADD', base .. 'tenants', kind.tenant)
    add('i:' .. kind.tenant, 0, id)
    enqueue(id, kind.model, kind.level)
    count_bytes(kind.model, #ARGV[i + 4])
    changed(id, 'q', 1, kind.model)
    flush()
  end
  replies[#replies + 1] = revived and '1' or '0'
end
return table.concat(replies)
