-- Writes an event that belongs to no job and no destination into the journal of a shard.
--
-- Takes:
--   event  as JSON
-- Reply: now.
-- Full memory: refused: the caller reports the event again later.
-- Cost: 1 operation. Atomic; repeating it writes the event once more.

add_event(event)
write_journal()
return NOW
