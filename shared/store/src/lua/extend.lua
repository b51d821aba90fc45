-- Extends leases of one shard: each lasts for its full length again, starting now, because its
-- attempts take long. A lease that has lapsed stays lapsed. The new deadline may be earlier than
-- the one before, if the server's clock was set back.
--
-- Takes:
--   length (number)  how long each lease lasts from now, in ms
-- Takes for each LEASE:
--   token
-- Reply: now; 1 or 0 per lease: it was extended, or it has lapsed; then the token and job id of
-- each job for which its lease is void, because the job's address was retired meanwhile.
-- Full memory: runs, so that no lease runs out while its attempt can still be settled. It changes a
-- number and adds nothing.
-- Cost: 3 operations for a batch, and 3 per lease while any lease is void for some job. Atomic;
-- repeating it does no harm.

local deadline = text(NOW + length)
if #ARGV < LEASE_AT then return { NOW, {}, {} } end

local tokens, deadlines = {}, {}
for i = LEASE_AT, #ARGV do
  tokens[#tokens + 1] = ARGV[i]
  deadlines[#deadlines + 1] = deadline
  deadlines[#deadlines + 1] = ARGV[i]
end
redis.call('ZADD', LEASES, 'XX', unpack(deadlines))
local extended, void_jobs = {}, {}
for k, at in ipairs(redis.call('ZMSCORE', LEASES, unpack(tokens))) do
  extended[k] = at and 1 or 0
end
if redis.call('HLEN', MEANWHILE) > 0 then
  for _, token in ipairs(tokens) do
    local ids = held_jobs(token)
    local marks = #ids > 0 and redis.call('HMGET', MEANWHILE, unpack(ids)) or {}
    for k, id in ipairs(ids) do
      local void = read_mark(marks[k])
      if void >= serial_of(token) then
        void_jobs[#void_jobs + 1] = token
        void_jobs[#void_jobs + 1] = id
      end
    end
  end
end
return { NOW, extended, void_jobs }
