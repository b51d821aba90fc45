-- Takes one job of a shard out of quarantine, because an operator asks for it. The job is due now,
-- and may lapse again as often as any other.
--
-- Takes:
--   id           account/recipient
--   destination
--   by           the name of the operator's token, or ''
-- Reply: now; 1 if it was in quarantine, else 0, and nothing changed.
-- Full memory: runs, because it moves a job from one set to another. It adds an event.
-- Cost: 5 operations. Atomic; repeating it changes nothing.

if redis.call('ZREM', QUARANTINE, id) == 0 then return { NOW, 0 } end
redis.call('HDEL', LAPSES, id)
put_due(destination, id, NOW)
add_event(
  '{"type":"JobReinstated","job":' .. cjson.encode(id)
    .. ',"destination":' .. cjson.encode(destination) .. by_field(by) .. '}'
)
write_due()
write_journal()
return { NOW, 1 }
