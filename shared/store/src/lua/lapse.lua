-- Puts back jobs whose lease ran out unsettled, because their worker crashed or lost its
-- connection. Such a job is due since the end of its lease. Its attempt counter counts only settled
-- attempts, and so stays exact. A job that lapsed too often goes to quarantine: it may be what
-- crashes its workers.
-- Part of claim, release, repair and recount.
-- Cost: 1 operation if nothing lapsed; else 5 per lease, 2 per job and 3 per destination.

-- Returns the destination of a job. An unreadable record belongs to its address's domain: an error
-- here would lose all the jobs that have been taken out of their lease.
local function destination_of(record, id)
  local read, head = pcall(cjson.decode, head_of(record))
  local is_read = read and type(head) == 'table' and type(head.d) == 'string'
  return is_read and head.d or string.match(id, '[^@]*$')
end

-- How many jobs have lapsed in this call.
local lapsed_jobs = 0

-- Puts back jobs that are in no lease any more. `due_of` has their due times by id.
local function put_back(ids, token, due_of)
  if #ids == 0 then return end
  local writes = {}
  local records = redis.call('HMGET', JOBS, unpack(ids))
  local marks = redis.call('HMGET', MEANWHILE, unpack(ids))
  for k, id in ipairs(ids) do
    local record = records[k]
    local void, joined = read_mark(marks[k])
    -- If the lease is void, any record with this id belongs to a job that was started since.
    if record and serial_of(token) > void then
      local destination = destination_of(record, id)
      end_attempt(destination, token, '')
      if joined > 0 then
        settle_joined(id, void)
        local trimmed = trim(record, id, destination)
        if trimmed ~= record then
          writes[#writes + 1] = id
          writes[#writes + 1] = trimmed
        end
      end
      local fields = ',"job":' .. cjson.encode(id)
        .. ',"destination":' .. cjson.encode(destination) .. '}'
      add_event('{"type":"JobLapsed"' .. fields)
      lapsed_jobs = lapsed_jobs + 1
      if count_up(LAPSES, id, 1) >= MAX_LAPSES then
        redis.call('ZADD', QUARANTINE, NOW_TEXT, id)
        add_event('{"type":"JobQuarantined"' .. fields)
        note_change('quarantined', destination, id)
      else
        put_due(destination, id, due_of[id])
      end
    end
  end
  call_many('HSET', JOBS, writes)
end

local function lapse(most)
  local lapsed =
    redis.call('ZRANGE', LEASES, '-inf', NOW_TEXT, 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
  local left = most
  for i = 1, #lapsed, 2 do
    if left <= 0 then break end
    local token, deadline = lapsed[i], tonumber(lapsed[i + 1])
    local marks = read_marks(token)
    local held, numbers = held_by(marks, token)
    local ids, due_of = {}, {}
    for k = 1, math.min(left, #held) do
      ids[k] = held[k]
      due_of[held[k]] = deadline
      marks[numbers[k]] = GONE
    end
    -- Marks without ids mean nothing. Only a fault can leave them.
    write_marks(token, #held > 0 and marks or {})
    left = left - math.max(1, #ids)
    put_back(ids, token, due_of)
  end
end
