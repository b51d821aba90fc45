-- Lengthens leases of one shard whose attempts take long. A lease that has lapsed is not lengthened.
--
-- ARGV from FIRST, 2 per lease: the new deadline in ms, the token
-- Reply: now; 1 or 0 per lease: it lasts at least until the new deadline, or it has lapsed; then, of all of them, token and
-- job id of each job that the lease is void for, because its address was retired meanwhile.
-- Cost: 3 operations for a batch, and 3 per lease while any lease is void for some job. Atomic; repeating it changes
-- nothing.

assert((#ARGV - FIRST + 1) % 2 == 0, 'extend takes 2 values per lease')
if #ARGV < FIRST then return { NOW, {}, {} } end

local tokens = {}
for i = FIRST, #ARGV, 2 do tokens[#tokens + 1] = ARGV[i + 1] end
redis.call('ZADD', LEASES, 'XX', 'GT', unpack(ARGV, FIRST))
local extended, void_jobs = {}, {}
for k, deadline in ipairs(redis.call('ZMSCORE', LEASES, unpack(tokens))) do extended[k] = deadline and 1 or 0 end
if redis.call('HLEN', MEANWHILE) > 0 then
  for _, token in ipairs(tokens) do
    local ids = held_jobs(token)
    local marks = #ids > 0 and redis.call('HMGET', MEANWHILE, unpack(ids)) or {}
    for k, id in ipairs(ids) do
      local void = read_mark(marks[k])
      if void >= tonumber(token) then
        void_jobs[#void_jobs + 1] = token
        void_jobs[#void_jobs + 1] = id
      end
    end
  end
end
return { NOW, extended, void_jobs }
