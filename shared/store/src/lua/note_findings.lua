-- Records what a check found wrong with the settings of the servers. Writes an event for each
-- finding that is new, and for each that is gone.
--
-- Takes for each FINDING:
--   name
--   found  its text
--   json   its text as JSON
-- Reply: now; how many events.
-- Full memory: refused: the next check finds it again.
-- Cost: 2 operations, and 1 per finding that is new or gone. Atomic; repeating it changes nothing.

local key = PREFIX .. 'findings'
local gone, known = {}, redis.call('HGETALL', key)
for i = 1, #known, 2 do gone[known[i]] = known[i + 1] end

local written = 0
local function note(kind, reason)
  add_event('{"type":"' .. kind .. '","job":"","reason":' .. reason .. '}')
  written = written + 1
end

for i = FINDING_AT, #ARGV, FINDING_WIDTH do
  local name, found, json = unpack(ARGV, i, i + FINDING_WIDTH - 1)
  if not gone[name] then
    redis.call('HSET', key, name, found)
    note('ServerMisconfigured', json)
  end
  gone[name] = nil
end
for name, found in pairs(gone) do
  redis.call('HDEL', key, name)
  note('ServerCorrected', cjson.encode(found))
end
write_journal()
return { NOW, written }
