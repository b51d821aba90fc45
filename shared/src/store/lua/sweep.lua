-- Removes the job sets of leases that are over, of which only a fault can leave any: one by one along the tokens, which are
-- numbers in a row. Up to where that was done is kept, in `swept`, and never beyond a lease that is there.
--
-- ARGV[FIRST]      the token to go on behind, or -1: where the last pass ended
-- ARGV[FIRST + 1]  how many tokens at most
-- Reply: now; the token to go on behind, or -1: that was the last; how many sets were removed.
-- Cost: 5 operations. Atomic; repeating it changes nothing.

assert(#ARGV == FIRST + 1, 'sweep takes 2 values')
local key = PREFIX .. 'swept'

local swept = tonumber(redis.call('GET', key) or 0)
local from, newest = tonumber(ARGV[FIRST]), tonumber(redis.call('GET', SERIAL) or 0)
if from < 0 then from = swept end
local to = math.min(from + tonumber(ARGV[FIRST + 1]), newest)
if to <= from then return { NOW, -1, 0 } end

local tokens, over, done = {}, {}, to
for token = from + 1, to do tokens[#tokens + 1] = text(token) end
for k, deadline in ipairs(redis.call('ZMSCORE', LEASES, unpack(tokens))) do
  if deadline then
    done = math.min(done, from + k - 1)
  else
    over[#over + 1] = lease_key(tokens[k])
  end
end
local removed = #over > 0 and redis.call('UNLINK', unpack(over)) or 0
if from == swept and done > swept then redis.call('SET', key, text(done)) end
return { NOW, to < newest and to or -1, removed }
