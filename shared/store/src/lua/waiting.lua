-- Counts the jobs that wait at one destination, and returns when the first of them is due.
--
-- Takes:
--   destination
-- Takes for each HORIZON:
--   until_ms     an instant
-- Reply: now; how many jobs; when the first is due, or nil; per horizon, how many are due until
-- then.
-- Full memory: reads, and writes nothing.
-- Cost: 3 operations and 1 per horizon; 2 and 1 per horizon for each account that is not the first
-- there. Atomic.

local jobs, first, until_horizon = 0, false, {}
for i = HORIZON_AT, #ARGV do until_horizon[i] = 0 end

local function add(key)
  jobs = jobs + redis.call('ZCARD', key)
  local due = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if due and (not first or tonumber(due) < tonumber(first)) then first = due end
  for i in pairs(until_horizon) do
    until_horizon[i] = until_horizon[i] + redis.call('ZCOUNT', key, '-inf', ARGV[i])
  end
end

add(due_key(destination))
for _, account in ipairs(redis.call('ZRANGE', accounts_key(destination), 0, -1)) do
  add(due_of_key(destination, account))
end
local counts = {}
for i = HORIZON_AT, #ARGV do counts[#counts + 1] = until_horizon[i] end
return { NOW, jobs, first, counts }
