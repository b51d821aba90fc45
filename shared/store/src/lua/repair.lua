-- Looks through a page of one shard's jobs, and puts lost jobs back. A job is lost if it is neither
-- due, nor in quarantine, nor in a lease that exists. It is due now. Destinations of the page that
-- have due jobs but are missing from the agenda are added to it. So are accounts with due jobs that
-- are missing among those of their destination. None of these faults should ever be found.
-- Destinations that the agenda has later than their first due job are visited once more. Most have
-- a reason, which the visit finds. The others are late because the clock was set back. Jobs that an
-- earlier version put into the due set of another account are moved to that of their own.
-- One script looks and acts, so no claim, settle or schedule can come between.
--
-- Takes:
--   page_from  where the page starts: '0', or what the page before it replied
--   page_size  how many jobs to look at, about
-- Reply: now; where the next page starts ('0': there is none); how many bytes were read;
-- destination and number of jobs put back; destinations put into the agenda; destinations with
-- attempts under way, by their pace or by their leases.
-- Full memory: runs, because it puts lost jobs back where they belong. It adds a due time, a mark
-- and an event per lost job.
-- Cost: 2 operations for a page, 5 per destination, and 4 per account that is not the first there;
-- 2 and 2 per lease of the shard if a job of the page is leased; 1 more per job that was lost.

local cursor, found = unpack(redis.call('HSCAN', JOBS, page_from, 'COUNT', page_size))
local ids, record_of, home_of, ids_at = {}, {}, {}, {}
local bytes = 0
for i = 1, #found, 2 do
  local id, record = found[i], found[i + 1]
  if not record_of[id] then
    local destination = destination_of(record, id)
    ids[#ids + 1] = id
    record_of[id], home_of[id] = record, destination
    bytes = bytes + #record
    ids_at[destination] = ids_at[destination] or {}
    table.insert(ids_at[destination], id)
  end
end
if #ids == 0 then return { NOW, cursor, 0, {}, {}, {} } end

local in_quarantine = {}
for k, since in ipairs(redis.call('ZMSCORE', QUARANTINE, unpack(ids))) do
  in_quarantine[ids[k]] = since
end

-- Jobs that do not wait; destinations with jobs that wait; destinations that may have attempts
-- under way. The caller counts those attempts.
local not_waiting, waiting, under_way = {}, {}, {}
-- Destinations with jobs that no visit would find.
local unreachable, is_shared = {}, {}

-- Looks for jobs in the due set of an account that is not the first. Returns whether any is there.
-- The others do not wait.
local function look_at_other(destination, account, its_ids)
  local key, found_any = due_of_key(destination, account), false
  for k, due in ipairs(call_on_set(destination, 'ZMSCORE', key, unpack(its_ids))) do
    if due then
      found_any = true
    else
      not_waiting[#not_waiting + 1] = its_ids[k]
      under_way[destination] = true
    end
  end
  return found_any
end

-- Makes sure that the jobs of an account that is not the first are found by visits.
local function make_reachable(destination, account)
  local accounts = accounts_key(destination)
  local first = redis.call('ZRANGE', due_of_key(destination, account), 0, 0, 'WITHSCORES')
  local at = tonumber(call_on_set(destination, 'ZSCORE', accounts, account))
  if not at or at > tonumber(first[2]) then
    redis.call('ZADD', accounts, first[2], account)
  end
  if not at or not is_shared[destination] then unreachable[destination] = true end
  if not is_shared[destination] then
    redis.call('HSETNX', pace_key(destination), 'turn', '0')
    is_shared[destination] = true
  end
  if redis.call('EXISTS', due_key(destination)) == 0 then
    replace_first(destination)
    unreachable[destination] = true
  end
end

for destination, its_ids in pairs(ids_at) do
  local pace = read_pace(destination)
  local waiting_first = call_on_set(destination, 'ZRANGE', due_key(destination), 0, 0)[1]
  local first = waiting_first and account_of(waiting_first)
  local waits, elsewhere = false, {}
  is_shared[destination] = pace.turn ~= nil
  for k, due in ipairs(redis.call('ZMSCORE', due_key(destination), unpack(its_ids))) do
    local id = its_ids[k]
    local account = account_of(id)
    if due then
      waits = true
      -- An earlier version kept the jobs of all accounts together.
      if account ~= first then
        redis.call('ZREM', due_key(destination), id)
        put_due(destination, id, tonumber(due))
      end
    elseif not in_quarantine[id] then
      elsewhere[account] = elsewhere[account] or {}
      table.insert(elsewhere[account], id)
    end
  end
  for account, ids_there in pairs(elsewhere) do
    if look_at_other(destination, account, ids_there) then
      waits = true
      make_reachable(destination, account)
    end
  end
  if waits then waiting[#waiting + 1] = destination end
  if (pace.in_flight or 0) ~= 0 then under_way[destination] = true end
end

local woken = {}
if #waiting > 0 then
  for k, at in ipairs(redis.call('ZMSCORE', AGENDA, unpack(waiting))) do
    local destination = waiting[k]
    if not at or unreachable[destination] then
      woken[#woken + 1] = destination
      wake(destination, NOW)
    else
      local worth_it = math.max(first_due(destination, is_shared[destination]), NOW)
      if tonumber(at) > worth_it then wake(destination, worth_it) end
    end
  end
end

-- Which of these jobs are in a lease that exists and is valid for them.
local leased, marks = {}, {}
if #not_waiting > 0 then
  marks = redis.call('HMGET', MEANWHILE, unpack(not_waiting))
  local void_up_to = {}
  for k, id in ipairs(not_waiting) do void_up_to[id] = read_mark(marks[k]) end
  for _, token in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    for _, id in ipairs(held_jobs(token)) do
      if void_up_to[id] and serial_of(token) > void_up_to[id] then leased[id] = true end
    end
  end
end

local lost_at, writes = {}, {}
local serial = redis.call('GET', SERIAL) or '0'
for k, id in ipairs(not_waiting) do
  if not leased[id] then
    local destination = home_of[id]
    local _, joined = read_mark(marks[k])
    local trimmed = joined > 0 and trim(record_of[id], id, destination)
    if trimmed and trimmed ~= record_of[id] then
      writes[#writes + 1] = id
      writes[#writes + 1] = trimmed
    end
    -- A worker that still has the job under a lost lease must not settle it when the next lease
    -- exists.
    redis.call('HSET', MEANWHILE, id, serial .. ' 0')
    put_due(destination, id, NOW)
    add_event(
      '{"type":"JobRecovered","job":' .. cjson.encode(id)
        .. ',"destination":' .. cjson.encode(destination) .. '}'
    )
    lost_at[destination] = (lost_at[destination] or 0) + 1
  end
end
call_many('HSET', JOBS, writes)
write_due()
write_journal()

local recovered, suspects = {}, {}
for destination, count in pairs(lost_at) do
  recovered[#recovered + 1] = destination
  recovered[#recovered + 1] = count
end
for destination in pairs(under_way) do suspects[#suspects + 1] = destination end
return { NOW, cursor, bytes, recovered, woken, suspects }
