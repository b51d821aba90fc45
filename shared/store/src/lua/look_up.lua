-- Reads all that is known of one address. It is a script because Redis refuses commands in a
-- transaction when memory is full, even those that only read.
--
-- Takes:
--   id           account/recipient
--   destination
-- Reply: now; the standing's JSON; the job's record; when it is due; since when it is in
-- quarantine; the fields of the destination's pace with their values. Each is nil if there is none.
-- Full memory: reads, and writes nothing.
-- Cost: 5 operations. Atomic.

return {
  NOW,
  redis.call('HGET', STANDING, id),
  redis.call('HGET', JOBS, id),
  find_due(destination, id),
  redis.call('ZSCORE', QUARANTINE, id),
  redis.call('HGETALL', pace_key(destination)),
}
