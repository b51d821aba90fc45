-- Makes jobs of one shard due now that only wait because the peer of a route could not be reached.
-- A job that was tried, released or ended since then is left as it is.
--
-- Takes:
--   route
--   most (number)  how many jobs to look at, at most
-- Reply: now; how many were looked at, and if as many as `most`, there may be more; how many are
-- due now.
-- Full memory: runs, because it moves due times forward that exist.
-- Cost: 2 operations for a batch, 2 per job and 1 per destination. Atomic; repeating it changes
-- nothing.

local key = route_key(route)
local found = redis.pcall('ZRANGE', key, 0, most - 1, 'WITHSCORES')
if found.err then
  redis.call('DEL', key)
  found = {}
end
local entries, released = {}, 0
for i = 1, #found, 2 do
  entries[#entries + 1] = found[i]
  local destination, id = string.match(found[i], '^(%S+) (.*)$')
  local due = destination and find_due(destination, id)
  if due and tonumber(due) == tonumber(found[i + 1]) and tonumber(due) > NOW then
    remove_due(destination, id)
    put_due(destination, id, NOW)
    released = released + 1
  end
end
call_many('ZREM', key, entries)
write_due()
write_journal()
return { NOW, #entries, released }
