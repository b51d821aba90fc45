-- Gives one destination of a shard an operator's limits, or takes them back. It is visited at once, because it may get
-- more than before.
--
-- ARGV from FIRST: destination; 'rate burst window', or '' for none
-- Reply: now.
-- Cost: 2 operations. Atomic; repeating it changes nothing.

assert(#ARGV == FIRST + 1, 'override takes 2 values')
local destination, limits = unpack(ARGV, FIRST)

if limits == '' then
  redis.call('HDEL', pace_key(destination), 'override')
else
  redis.call('HSET', pace_key(destination), 'override', limits)
end
wake(destination, NOW)
write_due()
return { NOW }
