-- Lifts `unavailable` from addresses when its time is over: they are active again. How many times
-- in a row an address was unavailable stays known, until a delivery clears it.
--
-- Takes:
--   most  how many addresses at most
-- Reply: now, how many were lifted.
-- Full memory: refused, because it writes an event per address and can wait for the next upkeep.
-- Cost: 1 operation if there is nothing to do; else 4 for a batch. Atomic.

local ids = redis.call('ZRANGE', UNAVAILABLE, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, most)
if #ids == 0 then return { NOW, 0 } end

local writes = {}
for k, json in ipairs(redis.call('HMGET', STANDING, unpack(ids))) do
  local record = json and read_standing(json)
  if record and record.s == 'unavailable' and record.u <= NOW then
    record.s, record.u, record.t, record.e = 'active', nil, NOW, nil
    writes[#writes + 1] = ids[k]
    writes[#writes + 1] = cjson.encode(record)
    add_event(
      '{"type":"AddressReinstated","job":' .. cjson.encode(ids[k])
        .. ',"reason":"unavailable_over"}'
    )
  end
end
redis.call('ZREM', UNAVAILABLE, unpack(ids))
call_many('HSET', STANDING, writes)
write_journal()
return { NOW, #writes / 2 }
