-- Reports how far the history of one shard reaches, so that a process can detect that Redis has
-- lost writes which the process knows of.
--
-- Takes for each ENTRY:
--   entry_id  the id of a journal entry
-- Reply: now; which server it is and which history it follows, '' if the server does not report it;
-- the serial of the last lease; a text with a letter per id (k: the entry is there, t: it was
-- trimmed, l: it is lost); the id of the first entry, '' if there is none; the id of the newest
-- entry that is not after the first of those ids, 0-0 if there is none.
-- Full memory: runs; it writes nothing. It is not flagged no-writes, because then a replica would
-- answer.
-- Cost: 3 operations; with ids 3 more, and 1 per id. Atomic; changes nothing.

local function field_of_info(section, field)
  -- Some Redis users may not run INFO.
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match(info, field .. ':(%w+)') or ''
end

-- A server that was restarted has another run id. A server that was promoted, or that followed
-- another master meanwhile, has another replication id.
local server = field_of_info('server', 'run_id') .. field_of_info('replication', 'master_replid')
local reply = { NOW, server, tonumber(redis.call('GET', SERIAL) or 0) or 0, '', '', '0-0' }
if #ARGV < ENTRY_AT then return reply end

local journal = {}
if redis.call('EXISTS', JOURNAL) == 1 then
  local info = redis.call('XINFO', 'STREAM', JOURNAL)
  for i = 1, #info, 2 do journal[info[i]] = info[i + 1] end
end
local first = journal['first-entry'] and journal['first-entry'][1] or ''
local last = journal['last-generated-id'] or '0-0'
-- Whether any entries were trimmed. A server older than Redis 7.0 does not report this.
local some_were_trimmed = journal['entries-added'] ~= journal['length']

local function is_before(a, b)
  local a_ms, a_sequence = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_sequence = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_sequence) < tonumber(b_sequence)
end

-- Entries are only ever trimmed from the front.
local function was_trimmed(id)
  if not some_were_trimmed then return false end
  if first == '' then return not is_before(last, id) end
  return is_before(id, first)
end

local letters = {}
for i = ENTRY_AT, #ARGV do
  local id = ARGV[i]
  local is_there = #redis.call('XRANGE', JOURNAL, id, id) > 0
  letters[#letters + 1] = is_there and 'k' or was_trimmed(id) and 't' or 'l'
end
local before = redis.call('XREVRANGE', JOURNAL, ARGV[ENTRY_AT], '-', 'COUNT', 1)[1]
reply[4], reply[5], reply[6] = table.concat(letters), first, before and before[1] or '0-0'
return reply
