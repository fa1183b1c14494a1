-- What wrk sends. Requests are made before the run; while it lasts they are only handed out.
--
-- Arguments, NAME=VALUE:
--   body            file that is sent
--   authorizations  file with one value of Authorization in each line; they take turns
--   wrong           a number: every request has another wrong password, counted from there
--   close           any value: a new connection for every request

local function content(path)
  local file = assert(io.open(path, 'rb'))
  local text = file:read('*a')
  file:close()
  return text
end

-- Base64 of three digits is four characters, so a password of digits at a place divisible by three is put together of these.
local function base64_of_digits()
  local letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  local encoded = {}
  for number = 0, 999 do
    local first, second, third = string.format('%03d', number):byte(1, 3)
    local bits = first * 65536 + second * 256 + third
    local text = ''
    for shift = 3, 0, -1 do
      local at = math.floor(bits / 64 ^ shift) % 64 + 1
      text = text .. letters:sub(at, at)
    end
    encoded[number] = text
  end
  return encoded
end

function init(arguments)
  local options = {}
  for _, argument in ipairs(arguments) do
    local name, value = argument:match('^(%w+)=(.*)$')
    options[name] = value
  end
  wrk.method = 'POST'
  wrk.headers['Content-Type'] = 'application/json'
  wrk.body = content(options.body)
  if options.close then
    wrk.headers['Connection'] = 'close'
  end
  if options.wrong then
    -- `user0500:000000000` begins with nine bytes before its digits.
    wrk.headers['Authorization'] = 'Basic dXNlcjA1MDA6@'
    local before, after = wrk.format():match('^(.-)@(.*)$')
    local digits = base64_of_digits()
    local count = tonumber(options.wrong)
    function request()
      count = count + 1
      local low = count % 1000
      local rest = (count - low) / 1000
      local middle = rest % 1000
      return before .. digits[(rest - middle) / 1000 % 1000] .. digits[middle] .. digits[low] .. after
    end
  elseif options.authorizations then
    local requests = {}
    for line in content(options.authorizations):gmatch('[^\n]+') do
      wrk.headers['Authorization'] = line
      requests[#requests + 1] = wrk.format()
    end
    -- One request is wrk's own business, without a call for each.
    if #requests > 1 then
      local turn = 0
      function request()
        turn = turn % #requests + 1
        return requests[turn]
      end
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
