-- Gives one destination of a shard an operator's limits, or removes them. The destination is
-- visited at once, because it may get more than before.
--
-- Takes:
--   destination
--   limits       'rate burst window', or '' for none
--   by           the name of the operator's token, or ''
-- Reply: now.
-- Full memory: runs, because an operator asks for it. It adds a field and an event.
-- Cost: 5 operations, 2 if nothing changes. Atomic; repeating it changes nothing.

local key = pace_key(destination)
-- Repairs a pace that cannot be read.
read_pace(destination)

if (redis.call('HGET', key, 'override') or '') == limits then
  write_journal()
  return { NOW }
end
local fields = ''
if limits == '' then
  redis.call('HDEL', key, 'override')
else
  redis.call('HSET', key, 'override', limits)
  local rate, burst, window = string.match(limits, '^(%S+) (%S+) (%S+)$')
  fields = ',"limits":{"rate":' .. rate .. ',"burst":' .. burst .. ',"window":' .. window .. '}'
end
wake(destination, NOW)
event_of_destination('DestinationLimited', destination, fields .. by_field(by))
write_due()
write_journal()
return { NOW }
