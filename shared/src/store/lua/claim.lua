-- Leases due jobs of one shard: visits the destinations whose time has come, takes from each a bounded share, and
-- writes back when each is next worth visiting.
--
-- ARGV from FIRST: how many jobs at most; how many of one destination at most, per visit; length of the lease in ms
-- Reply: now; the leases' deadline, which is their token; when the shard is next worth visiting (-1: never); then per
-- destination: its name, when somebody there last got through ('' where unknown), and per job id, due and record.
-- Cost: 7 operations and 3 per destination visited. Atomic.

local batch, share, lease_ms = unpack(ARGV, FIRST)
batch, share, lease_ms = tonumber(batch), tonumber(share), tonumber(lease_ms)
assert(#ARGV == FIRST + 2, 'claim takes 3 values')

-- An answer larger than this could take longer than its reader waits. The first job is always in it.
local BYTES_MAX = 8 * 1024 * 1024

lapse(batch)

local deadline = NOW + lease_ms
local reply = { NOW, deadline, -1 }
local left = batch
local all_ids, places = {}, {}
local next_visits, finished = {}, {}

for _, destination in ipairs(redis.call('ZRANGE', AGENDA, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, batch)) do
  if left == 0 then break end
  local most = math.min(share, left)
  local key = due_key(destination)
  -- One more than may be taken, to know what comes next.
  local waiting = redis.call('ZRANGE', key, 0, most, 'WITHSCORES')
  local visit = { destination, redis.call('HGET', pace_key(destination), 'delivered') or '' }
  local taken = 0
  while taken < most and waiting[2 * taken + 1] and tonumber(waiting[2 * taken + 2]) <= NOW do
    all_ids[#all_ids + 1] = waiting[2 * taken + 1]
    places[#places + 1] = { visit, waiting[2 * taken + 2] }
    taken = taken + 1
  end
  if taken > 0 then
    redis.call('ZREMRANGEBYRANK', key, 0, taken - 1)
    left = left - taken
    reply[#reply + 1] = visit
  end
  local next_due = waiting[2 * taken + 2]
  if next_due then
    -- A destination with work left goes behind all that wait already.
    next_visits[#next_visits + 1] = math.max(tonumber(next_due), NOW)
    next_visits[#next_visits + 1] = destination
  else
    finished[#finished + 1] = destination
  end
end
call_many('ZADD', AGENDA, next_visits)
call_many('ZREM', AGENDA, finished)

if #all_ids > 0 then
  local leases, bytes = {}, 0
  local records = redis.call('HMGET', JOBS, unpack(all_ids))
  for k, id in ipairs(all_ids) do
    local visit, due = unpack(places[k])
    -- An id without a record stands for nothing, and is forgotten.
    if records[k] and (#leases == 0 or bytes + #records[k] <= BYTES_MAX) then
      bytes = bytes + #records[k]
      visit[#visit + 1] = id
      visit[#visit + 1] = due
      visit[#visit + 1] = records[k]
      leases[#leases + 1] = deadline
      leases[#leases + 1] = id
    elseif records[k] then
      put_due(visit[1], id, tonumber(due))
    end
  end
  call_many('ZADD', LEASES, leases)
  write_due()
end

local first = redis.call('ZRANGE', AGENDA, 0, 0, 'WITHSCORES')
if first[2] then reply[3] = tonumber(first[2]) end
return reply
