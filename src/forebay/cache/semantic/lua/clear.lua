-- Forget the texts of some answers. ARGV: has a tenant (0 or 1), tenant, model, version, tag (between two NUL; empty: any),
-- digest in hex (empty: any), partitions to look at.
for at = 7, #ARGV do
  local partition = ARGV[at]
  local about = redis.call('HGET', base .. 'about', partition)
  local tenant, model, version = '', '', ''
  if about then tenant, model, version = string.match(about, '^([^\n]*)\n([^\n]*)\n(.*)$') end
  if (ARGV[1] == '0' or tenant == ARGV[2]) and (ARGV[3] == '' or model == ARGV[3])
    and (ARGV[4] == '' or version == ARGV[4]) then
    if ARGV[5] == '' and ARGV[6] == '' then
      drop(partition)
    else
      local all = redis.call('HGETALL', base .. 't:' .. partition)
      for place = 1, #all, 2 do
        local _, digest, tags = read(all[place + 1])
        if (ARGV[6] == '' or digest == ARGV[6]) and (ARGV[5] == '' or string.find(tags, ARGV[5], 1, true)) then
          forget(partition, all[place])
        end
      end
    end
  end
end
