-- Keeps attempts from one destination of a shard, because an operator says so. What is under way
-- goes on.
--
-- ARGV from FIRST: destination; until when in ms, or -1: until it is released; the operator's
-- reason, as JSON text
-- Reply: now.
-- Full memory: runs, because an operator says so. It adds two fields and an event.
-- Cost: 3 operations. Atomic; repeating it tells the event once more.

assert(#ARGV == FIRST + 2, 'hold takes 3 values')
local destination, hold_until, reason = unpack(ARGV, FIRST)

-- Puts right what is no pace at all.
read_pace(destination)
redis.call('HSET', pace_key(destination), 'hold', hold_until, 'hold_reason', cjson.decode(reason))
note_trouble(destination)
local fields = ',"reason":' .. reason
if hold_until ~= '-1' then
  fields = fields .. ',"until":' .. hold_until
  -- A longer hold before this one may have put the next visit too far away.
  wake(destination, math.max(tonumber(hold_until), NOW))
end
event_of_destination('DestinationHeld', destination, fields)
write_due()
write_journal()
return { NOW }
