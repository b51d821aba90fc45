-- Pace: how many attempts a destination gets at once and per second, for the whole fleet, and the
-- breaker that keeps attempts from it while it is down. Part of schedule, claim, settle, refute,
-- release.
--
-- ARGV[9]   tokens per second; 0: no limit
-- ARGV[10]  how many tokens may be saved up
-- ARGV[11]  attempts at once up to which each answer adds one, as long as no failure has narrowed
--           the window
-- ARGV[12]  attempts at once, at most
-- ARGV[13]  failures of the host in a row that open the breaker
-- ARGV[14]  share of failures that opens it, of what was tried in ARGV[16]
-- ARGV[15]  how many tries that share is of, at least
-- ARGV[16]  the sliding window for it, in ms
-- ARGV[17]  how long the breaker is open the first time, in ms; doubled for each time in a row
-- ARGV[18]  how long it is so at most, in ms
-- ARGV[19]  attempts at once that failures leave at least
-- ARGV[20]  attempts at once, at most, at a destination that has not answered lately; its window
--           begins with them
-- ARGV[21]  for how long after an answer a destination has answered lately, in ms
--
-- pace:<destination>, a hash; a field that is absent or '' has its first value; pace_fields.lua
-- reads them:
--   in_flight  attempts under way
--   window     how many there may be; moves with what comes back
--   narrowed   the serial up to which failures have narrowed the window already
--   tokens     'tokens refilled-at'
--   parked     1 where the window was full: whoever makes room wakes the destination
--   breaker    'open until times' or 'half_open probe times'; absent or '': closed
--   results    'in-a-row period good bad good-before bad-before'; absent or '': nothing tried
--   delivered  when somebody there last got through
--   answered   when a host there last answered an attempt, whatever it said
--   silent     until when it counts as silent, in ms: an attempt there waits for an answer, and no
--              other got one meanwhile
--   limits     'rate burst window', from the configuration
--   override   the same, from an operator; it wins
--   hold       until when an operator holds it, in ms; -1: until it is released
--   hold_reason  what for
--
-- trouble, a zset: destination → since when an operator holds it or its breaker is not closed, in
-- ms. One whose hold has run out is in it until upkeep looks; nobody counts on it but who lists
-- destinations.
--
-- unproven, a zset: destination → since when it has due jobs that no worker's share of attempts for
-- unproven destinations had room for, in ms. A destination is proven when it has answered lately
-- and is not silent.

local RATE, BURST = tonumber(ARGV[9]), tonumber(ARGV[10])
local WINDOW, WINDOW_MAX, WINDOW_MIN = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[19])
local FAILURES, SHARE, SAMPLES = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local PERIOD_MS = tonumber(ARGV[16])
local OPEN_MS, OPEN_MAX_MS = tonumber(ARGV[17]), tonumber(ARGV[18])
local WINDOW_NEW, ANSWERED_WITHIN_MS = tonumber(ARGV[20]), tonumber(ARGV[21])

local TROUBLE = PREFIX .. 'trouble'
local UNPROVEN = PREFIX .. 'unproven'

-- How long a destination stays silent without another report. Its workers may be gone.
local SILENT_MS = 5000

-- A failure takes this share of the window; what was under way with it takes nothing more.
local NARROWED_TO = 0.7

-- How far off a number of tokens may be: half of it because of the digits that are kept, half
-- because it is a float.
local ROUNDING = 1e-6

local function event_of_destination(kind, destination, fields)
  add_event('{"type":"' .. kind .. '","destination":' .. cjson.encode(destination) .. fields .. '}')
end

-- rate, burst and the largest window that hold for a destination.
local function limits_of(pace)
  local limits = pace.override or pace.limits
  if not limits then return RATE, BURST, WINDOW_MAX end
  return unpack(limits)
end

local function set(changes, field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end

-- One that is noted for longer than that was noted before the clock was set back, and says nothing.
local function is_silent(pace)
  local silent = pace.silent or 0
  return silent > NOW and silent <= NOW + SILENT_MS
end

local function has_answered_lately(pace)
  return pace.answered ~= nil and NOW - past(pace.answered) < ANSWERED_WITHIN_MS
end

-- Whether no host there has answered for this long.
local function is_mute_for(pace, waited_ms)
  return past(pace.answered or -math.huge) < NOW - waited_ms
end

local function is_proven(pace) return has_answered_lately(pace) and not is_silent(pace) end

-- How many attempts may be under way at once: while a destination is silent one, to see whether it
-- is back.
local function window_of(pace, window_max)
  local most = math.min(pace.window or WINDOW_NEW, window_max)
  if is_silent(pace) then return math.min(most, 1) end
  if not has_answered_lately(pace) then return math.min(most, WINDOW_NEW) end
  return most
end

-- How long a breaker is open that was opened so often in a row before.
local function open_ms(times) return math.min(OPEN_MS * 2 ^ times, OPEN_MAX_MS) end

-- How many attempts a destination may be given now; the instant of the next visit that is worth it,
-- where it had that many and wants more; and, where its window alone does not say it all, what is
-- to be done when it took some (how many, and whether it wants more). Changes of its pace are put
-- into `changes`. `fallback` is the instant to look again where only somebody else's report can
-- tell.
local function allowance(pace, changes, take_token, fallback)
  local held_until = pace.hold
  if held_until == -1 then return 0, fallback end
  if held_until and held_until > NOW then return 0, held_until end
  if pace.breaker then
    local state, at, times = unpack(pace.breaker)
    -- A probe whose lease is gone will not be heard of any more.
    if state == 'half_open' and redis.call('ZSCORE', LEASES, at) then return 0, fallback end
    if state == 'open' and at > NOW then
      -- One that was opened before the clock was set back must not stay open for the length of the
      -- step.
      local latest = NOW + open_ms(times - 1)
      if at <= latest then return 0, at end
      set(changes, 'breaker', 'open ' .. text(latest) .. ' ' .. text(times))
      return 0, latest
    end
    return 1, fallback, function()
      set(changes, 'breaker', 'half_open ' .. take_token() .. ' ' .. text(times))
    end
  end
  local rate, burst, window_max = limits_of(pace)
  local room = math.floor(window_of(pace, window_max)) - (pace.in_flight or 0)
  if room <= 0 then
    set(changes, 'parked', '1')
    return 0, fallback
  end
  if rate == 0 then return room, fallback end
  local saved, refilled_at = burst, NOW
  if pace.tokens then
    saved, refilled_at = unpack(pace.tokens)
    -- The clock was set back: from now on tokens are saved up again.
    if refilled_at > NOW then set(changes, 'tokens', string.format('%.6f %s', saved, NOW_TEXT)) end
    saved = math.min(burst, saved + math.max(0, NOW - refilled_at) * rate / 1000)
  end
  -- What is a token but for a rounding error is one.
  local whole = math.floor(saved + ROUNDING)
  -- The next token, rounded up to the millisecond, so that the visit finds it.
  local function next_token(left) return NOW + math.max(1, math.ceil((1 - ROUNDING / 2 - left) * 1000 / rate)) end
  if whole < 1 then return 0, next_token(saved) end
  local function take(taken, limited)
    set(changes, 'tokens', string.format('%.6f %s', saved - taken, NOW_TEXT))
    if limited and whole >= room then set(changes, 'parked', '1') end
  end
  if whole < room then return whole, next_token(saved - whole), take end
  return room, fallback, take
end

-- Whether an operator's hold is not over.
local function is_held(pace)
  local hold = pace.hold or 0
  return hold == -1 or hold > NOW
end

local function note_trouble(destination) redis.call('ZADD', TROUBLE, 'NX', NOW_TEXT, destination) end

local function open_breaker(destination, changes, times)
  note_trouble(destination)
  local at = NOW + open_ms(times)
  set(changes, 'breaker', 'open ' .. text(at) .. ' ' .. text(times + 1))
  set(changes, 'results', '')
  -- A visit that found its probe under way has put the next one off until that one's lease would
  -- end.
  wake(destination, at)
  event_of_destination('BreakerOpened', destination, ',"until":' .. text(at))
end

-- The sliding window of results: this period's and, as far as it still reaches into the window, the
-- one before.
local function count_results(results, good, bad)
  local row, period, now_good, now_bad, good_before, bad_before = 0, 0, 0, 0, 0, 0
  if results then row, period, now_good, now_bad, good_before, bad_before = unpack(results) end
  local this = math.floor(NOW / PERIOD_MS)
  if this - period == 1 then
    good_before, bad_before, now_good, now_bad = now_good, now_bad, 0, 0
  elseif this - period ~= 0 then
    good_before, bad_before, now_good, now_bad = 0, 0, 0, 0
  end
  now_good, now_bad = now_good + good, now_bad + bad
  row = good > 0 and 0 or row + bad
  local left = 1 - (NOW % PERIOD_MS) / PERIOD_MS
  local tried = now_good + now_bad + left * (good_before + bad_before)
  local failed = now_bad + left * bad_before
  local kept = string.format('%d %d %d %d %d %d', row, this, now_good, now_bad, good_before, bad_before)
  return kept, row >= FAILURES or (tried >= SAMPLES and failed >= SHARE * tried)
end

-- What settle, release and lapse report of one destination:
--   pace     its pace as it was
--   ended    attempts that are not under way any more
--   good     of these, how many the mail system dealt with, whatever it said of the mailbox
--   bad      how many failed by the host
--   refused  how many failed by our route to it
--   newest   the highest serial among the failures
--   late     whether they are of attempts that had ended before
--   probe    the token that the breaker waits for, if it does
--   result   what came of it: 'good', 'bad' or 'none'
--   delivered  whether somebody got through
--   answered   whether a host answered
--   is_mute    whether an attempt was given up because no host answered it, nor any other attempt
--              meanwhile
local reports = {}

local function report_of(destination)
  local report = reports[destination]
  if not report then
    local pace = read_pace(destination)
    report = { pace = pace, ended = 0, good = 0, bad = 0, refused = 0, newest = 0 }
    if pace.breaker and pace.breaker[1] == 'half_open' then report.probe = pace.breaker[2] end
    reports[destination] = report
  end
  return report
end

-- Attempts ended that are alike. `mark` is '+' good, '-' bad, '~' refused, or '' if it says nothing
-- of the destination; `in_flight` is how many of them were under way still, and not those whose
-- address was retired meanwhile.
local function end_attempts(destination, token, mark, number, in_flight)
  local report = report_of(destination)
  report.ended = report.ended + in_flight
  local is_probe = report.probe == token
  if mark == '+' then
    report.good = report.good + number
    if is_probe and report.result ~= 'bad' then report.result = 'good' end
  elseif mark == '' then
    if is_probe then report.result = report.result or 'none' end
  else
    if mark == '-' then report.bad = report.bad + number else report.refused = report.refused + number end
    if is_probe then report.result = 'bad' end
    report.newest = math.max(report.newest, serial_of(token))
  end
end

-- An attempt was given up after it had waited this long for an answer. If other attempts there got
-- an answer meanwhile, there are too many attempts at once. Otherwise the host does not answer.
local function give_up_attempt(destination, token, waited_ms, in_flight)
  local report = report_of(destination)
  local is_mute = is_mute_for(report.pace, waited_ms)
  report.is_mute = report.is_mute or is_mute
  end_attempts(destination, token, is_mute and '-' or '~', 1, in_flight)
end

local function end_attempt(destination, token, mark, in_flight) end_attempts(destination, token, mark, 1, in_flight or 1) end

-- An attempt that had ended well has turned out to have failed, by the host ('-') or by our route
-- to it ('~'). Where it was made before the window was last narrowed, that was for news as old as
-- this. Of another attempt's probe it says nothing.
local function note_late_failure(destination, mark, serial)
  if mark ~= '-' and mark ~= '~' then return end
  local report = report_of(destination)
  if mark == '-' then report.bad = 1 else report.refused = 1 end
  report.newest, report.late = tonumber(serial), true
end

-- The token of the probe that a destination waits for, where that is the attempt of this job; else
-- ''.
local function probe_of(destination, id)
  local token = report_of(destination).probe
  if not token then return '' end
  for _, held in ipairs(held_jobs(token)) do
    if held == id then return token end
  end
  return ''
end

-- A window after attempts went well. Until the first failure each answer adds one, up to WINDOW;
-- then each window's worth of them adds one.
local function wider_window(window, window_max, good, narrowed)
  if not narrowed and window < WINDOW then return math.min(window_max, WINDOW, window + good) end
  return math.min(window_max, window + good / window)
end

-- The breaker waits for its probe, or it is open and says nothing of what was under way before.
local function settle_breaker(destination, report, changes)
  local state, _, times = unpack(report.pace.breaker)
  local result = state == 'half_open' and report.result
  if result == 'bad' then
    open_breaker(destination, changes, times)
  elseif result == 'none' then
    -- It could not be asked, and is asked again after a while.
    set(changes, 'breaker', 'open ' .. text(NOW + OPEN_MS) .. ' ' .. text(times))
    wake(destination, NOW + OPEN_MS)
  elseif result == 'good' then
    -- A slow start: what has become due meanwhile goes out one by one at first.
    set(changes, 'breaker', '')
    set(changes, 'results', '')
    set(changes, 'window', text(WINDOW_MIN))
    if not is_held(report.pace) then redis.call('ZREM', TROUBLE, destination) end
    event_of_destination('BreakerClosed', destination, '')
    wake(destination, NOW)
  end
end

local function settle_pace(destination, report)
  local pace = report.pace
  local in_flight, window = pace.in_flight or 0, pace.window or WINDOW_NEW
  local changes = { 'in_flight', text(math.max(0, in_flight - report.ended)) }
  if report.delivered then set(changes, 'delivered', NOW_TEXT) end
  if report.answered then
    set(changes, 'answered', NOW_TEXT)
    if pace.silent then set(changes, 'silent', '') end
  end
  local failed = report.bad + report.refused
  if pace.breaker then
    settle_breaker(destination, report, changes)
  elseif failed > 0 then
    -- Failures that were under way together are one piece of news.
    if report.newest > (pace.narrowed or 0) then
      local used = report.late and window or math.min(window, in_flight)
      set(changes, 'window', string.format('%.3f', math.max(WINDOW_MIN, used * NARROWED_TO)))
      set(changes, 'narrowed', redis.call('GET', SERIAL) or '0')
    end
  elseif report.good > 0 and in_flight * 2 >= window then
    -- A window that is not in use is not tested, and so not widened.
    local _, _, window_max = limits_of(pace)
    local wider = wider_window(window, window_max, report.good, pace.narrowed)
    if wider ~= window then set(changes, 'window', string.format('%.3f', wider)) end
  end
  if not pace.breaker and report.good + report.bad > 0 then
    local kept, open = count_results(pace.results, report.good, report.bad)
    if open or report.is_mute then
      open_breaker(destination, changes, 0)
    else
      set(changes, 'results', kept)
    end
  end
  if pace.parked then
    set(changes, 'parked', '0')
    wake(destination, NOW)
  end
  redis.call('HSET', pace_key(destination), unpack(changes))
end

local function write_pace()
  for destination, report in pairs(reports) do settle_pace(destination, report) end
  reports = {}
end
