-- Removes destinations from a page of one shard's `trouble`, if their hold has run out and their
-- breaker is closed.
--
-- Takes:
--   page_from  where the page starts: '0', or what the page before it replied
--   page_size  how many destinations to look at, about
-- Reply: now; where the next page starts ('0': there is none); how many were forgotten.
-- Full memory: runs; it only deletes.
-- Cost: 2 operations for a page and 1 per destination. Atomic; repeating it changes nothing.

local cursor, found = unpack(redis.call('ZSCAN', TROUBLE, page_from, 'COUNT', page_size))
local over = {}
for i = 1, #found, 2 do
  local pace = read_pace(found[i])
  if not is_held(pace) and not pace.breaker then over[#over + 1] = found[i] end
end
call_many('ZREM', TROUBLE, over)
write_journal()
return { NOW, cursor, #over }
