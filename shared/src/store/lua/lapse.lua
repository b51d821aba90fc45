-- Puts back jobs whose lease ran out unsettled, because their worker crashed or lost its way. The job is due since its
-- lease ended; its attempt counter counts settled attempts and so stays exact. Part of claim.
-- Cost: 1 operation where nothing lapsed; else 6 and 1 per destination.

local function lapse(most)
  local lapsed = redis.call('ZRANGE', LEASES, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
  if #lapsed == 0 then return end
  local ids, writes = {}, {}
  for i = 1, #lapsed, 2 do ids[#ids + 1] = lapsed[i] end
  redis.call('ZREM', LEASES, unpack(ids))
  local records = redis.call('HMGET', JOBS, unpack(ids))
  for k, id in ipairs(ids) do
    local record = records[k]
    if record then
      local destination = cjson.decode(string.match(record, '^[^\n]*')).d
      local trimmed = trim(record, id, destination)
      if trimmed ~= record then
        writes[#writes + 1] = id
        writes[#writes + 1] = trimmed
      end
      put_due(destination, id, tonumber(lapsed[2 * k]))
      add_event(
        '{"type":"JobLapsed","job":' .. cjson.encode(id) .. ',"destination":' .. cjson.encode(destination) .. '}'
      )
    end
  end
  call_many('HSET', JOBS, writes)
  write_due()
  write_journal()
end
