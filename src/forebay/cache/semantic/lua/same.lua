-- The text with a normalised form: id and text. ARGV: normalised form.
local id = redis.call('HGET', KEYS[3], ARGV[1])
local kept = id and redis.call('HGET', KEYS[2], id)
if not kept then return {} end
return { id, string.sub(kept, string.find(kept, '\n', 1, true) + 1) }
