-- Forget a text. ARGV: partition, id.
forget(ARGV[1], ARGV[2])
