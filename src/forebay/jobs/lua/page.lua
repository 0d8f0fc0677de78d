-- ARGV: index, model, state, tenant (each '' for any), id to begin behind (or ''), most records, most to look at.
-- Reply: the id that was looked at last ('' at the end), then for each record its id and its fields.
local model, state, tenant, most, looks = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[6]), tonumber(ARGV[7])
local from = ARGV[5] == '' and '+' or '(' .. ARGV[5]
local ids = call('ZRANGE', base .. ARGV[1], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, looks)
local reply = { #ids == looks and ids[#ids] or '' }
local found = 0
for position, id in ipairs(ids) do
  local f = call('HMGET', jobs .. id, 's', 'w')
  local terms = f[2] and terms_of(f[2]) or {}
  if (state == '' or f[1] == state) and (model == '' or terms.model == model)
    and (tenant == '' or terms.tenant == tenant) then
    local shown = show(id, false)
    if type(shown) == 'table' then
      found = found + 1
      reply[#reply + 1] = id
      reply[#reply + 1] = shown
      if found == most and position < #ids then
        reply[1] = id
        break
      end
    end
  end
end
return reply
