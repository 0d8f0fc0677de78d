-- Forget partitions. ARGV: their names.
for _, partition in ipairs(ARGV) do drop(partition) end
