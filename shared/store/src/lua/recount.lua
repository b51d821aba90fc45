-- Counts the attempts under way at destinations of one shard, from the shard's leases. If the
-- number in a destination's pace differs, it is corrected. It should never differ: a number that is
-- too high would keep attempts away for ever.
--
-- Takes:
--   most (number)  how many leased jobs to count at most, of all destinations; if there are more,
--                  nothing is changed
-- Takes for each DESTINATION:
--   destination
-- Reply: now; 1 if the attempts were counted, 0 if there were too many; per destination that was
-- corrected: its name, the number before, the number now.
-- Full memory: runs. It corrects numbers and adds an agenda entry per destination at most.
-- Cost: 2 operations per destination, 5 per lease. Atomic.

local counted = {}
for i = DESTINATION_AT, #ARGV do counted[ARGV[i]] = 0 end

local tokens = redis.call('ZRANGE', LEASES, 0, -1)
local ids_of = {}
for _, token in ipairs(tokens) do
  ids_of[token] = held_jobs(token)
  most = most - #ids_of[token]
  if most < 0 then return { NOW, 0, {} } end
end
for _, token in ipairs(tokens) do
  local ids = ids_of[token]
  if #ids > 0 then
    local marks = redis.call('HMGET', MEANWHILE, unpack(ids))
    for k, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
      -- If the lease is void, its attempt does not count any more.
      local void = read_mark(marks[k])
      if record and serial_of(token) > void then
        local destination = destination_of(record, ids[k])
        if counted[destination] then counted[destination] = counted[destination] + 1 end
      end
    end
  end
end

local corrected = {}
for destination, count in pairs(counted) do
  local key = pace_key(destination)
  local recorded = read_pace(destination).in_flight or 0
  if recorded ~= count then
    redis.call('HSET', key, 'in_flight', text(count), 'parked', '0')
    wake(destination, NOW)
    corrected[#corrected + 1] = destination
    corrected[#corrected + 1] = text(recorded)
    corrected[#corrected + 1] = text(count)
  end
end
write_due()
write_journal()
return { NOW, 1, corrected }
