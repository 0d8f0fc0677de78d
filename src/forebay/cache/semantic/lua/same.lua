-- The text with a normalised form: id and text. ARGV: partition, normalised form.
local partition = ARGV[1]
if not used(partition) then return {} end
local id = redis.call('HGET', base .. 'n:' .. partition, ARGV[2])
local kept = id and redis.call('HGET', base .. 't:' .. partition, id)
if not kept then return {} end
local _, _, _, _, text = read(kept)
return { id, text }
