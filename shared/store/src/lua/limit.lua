-- Brings the limits that destinations of one shard have from the configuration up to date with it.
-- A destination whose limits change is visited at once, because it may get more than before.
--
-- Takes for each DESTINATION:
--   destination
--   limits       'rate burst window', or '' if it has none of its own
-- Reply: now; how many were changed.
-- Full memory: runs. It adds one short field per destination at most.
-- Cost: 1 operation per destination, 2 if its limits change. Atomic; repeating it changes nothing.

local changed = 0
for i = DESTINATION_AT, #ARGV, DESTINATION_WIDTH do
  local destination, limits = unpack(ARGV, i, i + DESTINATION_WIDTH - 1)
  local key = pace_key(destination)
  -- Repairs a pace that cannot be read.
  read_pace(destination)
  if (redis.call('HGET', key, 'limits') or '') ~= limits then
    if limits == '' then
      redis.call('HDEL', key, 'limits')
    else
      redis.call('HSET', key, 'limits', limits)
    end
    wake(destination, NOW)
    changed = changed + 1
  end
end
write_due()
write_journal()
return { NOW, changed }
