-- Removes void marks from a page of one shard's `meanwhile`, if all leases that they make void are
-- over anyway. Those are leases up to a serial lower than that of every existing lease. As long as
-- there is any mark, every settle has to look for marks of its jobs.
--
-- Takes:
--   page_from  where the page starts: '0', or what the page before it replied
--   page_size  how many marks to look at, about
-- Reply: now; where the next page starts ('0': there is none); how many were forgotten.
-- Full memory: runs; it only deletes.
-- Cost: 3 operations for a page. Atomic; repeating it changes nothing.

local lowest = math.huge
for _, token in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  lowest = math.min(lowest, serial_of(token))
end

local cursor, found = unpack(redis.call('HSCAN', MEANWHILE, page_from, 'COUNT', page_size))
local over = {}
for i = 1, #found, 2 do
  local void, joined = read_mark(found[i + 1])
  -- Messages that joined are still to be settled with the job. A mark that cannot be read keeps the
  -- job's leases void until the job has been put back.
  if void < lowest and joined == 0 then over[#over + 1] = found[i] end
end
call_many('HDEL', MEANWHILE, over)
return { NOW, cursor, #over }
