-- Writes an event that is about no job and no destination into the journal of a shard.
--
-- ARGV[FIRST]  the event, as JSON
-- Reply: now.
-- Full memory: refused: what it tells of is told again.
-- Cost: 1 operation. Atomic; repeating it tells the event once more.

assert(#ARGV == FIRST, 'note takes 1 value')
add_event(ARGV[FIRST])
write_journal()
return NOW
