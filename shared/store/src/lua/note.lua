-- Writes an event that belongs to no job and no destination into the journal of a shard.
--
-- ARGV[FIRST]  the event, as JSON
-- Reply: now.
-- Full memory: refused: the caller reports the event again later.
-- Cost: 1 operation. Atomic; repeating it writes the event once more.

assert(#ARGV == FIRST, 'note takes 1 value')
add_event(ARGV[FIRST])
write_journal()
return NOW
