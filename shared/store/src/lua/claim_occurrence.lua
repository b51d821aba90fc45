-- Claims one occurrence of an upkeep task, so that only one of all processes runs it.
--
-- Takes:
--   task
--   occurrence  its instant, in ms
--   keep        how long the claim is kept, in ms
-- Reply: now; 1 if nothing had claimed it, else 0.
-- Full memory: runs, because upkeep is what makes room. It adds one short key per occurrence.
-- Cost: 1 operation. Atomic.

local key = PREFIX .. 'upkeep:' .. task .. ':' .. occurrence
return { NOW, redis.call('SET', key, 1, 'NX', 'PX', keep) and 1 or 0 }
