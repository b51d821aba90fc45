-- Keeps attempts from one destination of a shard, because an operator asks for it. Attempts that
-- are under way continue.
--
-- Takes:
--   destination
--   hold_until   in ms, or -1: until it is released
--   reason       the operator's, as JSON text
--   by           the name of the operator's token, or ''
-- Reply: now.
-- Full memory: runs, because an operator asks for it. It adds two fields and an event.
-- Cost: 3 operations. Atomic; repeating it writes the event once more.

-- Repairs a pace that cannot be read.
read_pace(destination)
redis.call('HSET', pace_key(destination), 'hold', hold_until, 'hold_reason', cjson.decode(reason))
note_trouble(destination)
local fields = ',"reason":' .. reason
if hold_until ~= '-1' then
  fields = fields .. ',"until":' .. hold_until
  -- A longer hold before this one may have put the next visit too far away.
  wake(destination, math.max(tonumber(hold_until), NOW))
end
event_of_destination('DestinationHeld', destination, fields .. by_field(by))
write_due()
write_journal()
return { NOW }
