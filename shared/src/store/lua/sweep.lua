-- Removes what is left of leases that are over, of which only a fault can leave anything.
--
-- ARGV[FIRST]      where the page starts: '0', or what the page before it replied
-- ARGV[FIRST + 1]  how many fields to look at, about; a lease has two
-- Reply: now; where the next page starts ('0': there is none); how many were removed.
-- Full memory: runs; it only deletes.
-- Cost: 3 operations for a page. Atomic; repeating it changes nothing.

assert(#ARGV == FIRST + 1, 'sweep takes 2 values')

local cursor, found = unpack(redis.call('HSCAN', LEASED, ARGV[FIRST], 'COUNT', ARGV[FIRST + 1]))
local fields, tokens, over, removed = {}, {}, {}, 0
for i = 1, #found, 2 do
  fields[#fields + 1] = found[i]
  tokens[#tokens + 1] = string.match(found[i], '^[^ ]*')
end
if #tokens > 0 then
  for k, deadline in ipairs(redis.call('ZMSCORE', LEASES, unpack(tokens))) do
    if not deadline then
      over[#over + 1] = fields[k]
      if fields[k] == tokens[k] then removed = removed + 1 end
    end
  end
end
call_many('HDEL', LEASED, over)
return { NOW, cursor, removed }
