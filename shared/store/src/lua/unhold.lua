-- Lets attempts through again to one destination of a shard that an operator held. The destination
-- is worth visiting at once.
--
-- Takes:
--   destination
--   by           the name of the operator's token, or ''
-- Reply: now; 1 if it was held, else 0, and nothing changed.
-- Full memory: runs, because an operator asks for it. It adds an event.
-- Cost: 6 operations. Atomic; repeating it changes nothing.

local key = pace_key(destination)

local pace = read_pace(destination)
if not is_held(pace) then
  write_journal()
  return { NOW, 0 }
end
redis.call('HDEL', key, 'hold', 'hold_reason')
if not pace.breaker then redis.call('ZREM', TROUBLE, destination) end
wake(destination, NOW)
event_of_destination('DestinationReleased', destination, by_field(by))
write_due()
write_journal()
return { NOW, 1 }
