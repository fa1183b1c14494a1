-- The library for an operator's tests of a policy. `...` is the loader of policies and the list of cases.
--
--   local test = require 'gatepost.test'
--   local policy = test.policy 'policy.lua'          -- beside the test file
--
--   test.case('scott gets in', function()
--     test.allows(policy:request { user = 'scott', password = 'tiger' }, 'scott')
--     test.denies(policy:request { user = 'scott', password = 'lion' })
--   end)
--   test.case('scott sends for his domain', function()
--     local mail = { user = 'scott', sender = 'scott@example.com', recipients = { 'jane@example.org' }, from = 'scott@example.com' }
--     test.accepts(policy:message(mail))
--     mail.from = 'king@example.net'
--     test.rejects(policy:message(mail), 550, 'not your domain')
--   end)

local load, cases = ...
local test = { policy = load }

function test.case(name, body)
  if type(name) ~= 'string' or type(body) ~= 'function' then
    error('test.case needs a name and a function', 2)
  end
  cases[#cases + 1] = { name = name, body = body }
end

local function show(answer)
  if type(answer) ~= 'table' or not answer.outcome then
    return tostring(answer)
  end
  if answer.identity then
    return 'accepted as ' .. answer.identity
  end
  if answer.code then
    return 'rejected with ' .. answer.code .. ' ' .. answer.text
  end
  return answer.outcome .. (answer.reason and (': ' .. answer.reason) or '')
end

local function expect(good, message, default)
  if not good then
    error(message or default, 3)
  end
end

-- The request passes, as this identity where one is given.
function test.allows(answer, identity, message)
  local good = answer.outcome == 'accepted' and (identity == nil or answer.identity == identity)
  local wanted = identity and ('accepted as ' .. identity) or 'accepted'
  expect(good, message, 'expected ' .. wanted .. ', got ' .. show(answer))
end

-- The handler said no.
function test.denies(answer, message)
  expect(answer.outcome == 'rejected', message, 'expected rejected, got ' .. show(answer))
end

-- The handler for messages came to its end. What it set is in `answer.meta`, as texts.
function test.accepts(answer, message)
  expect(answer.outcome == 'accepted', message, 'expected accepted, got ' .. show(answer))
end

-- It called kumo.reject, with this code and this text where they are given.
function test.rejects(answer, code, text, message)
  local good = answer.outcome == 'rejected'
    and (code == nil or answer.code == code)
    and (text == nil or answer.text == text)
  local wanted = { 'rejected' }
  if code ~= nil then
    wanted[#wanted + 1] = 'with ' .. tostring(code)
  end
  if text ~= nil then
    wanted[#wanted + 1] = (code == nil and 'with ' or '') .. tostring(text)
  end
  expect(good, message, 'expected ' .. table.concat(wanted, ' ') .. ', got ' .. show(answer))
end

-- The handler raised an error or answered nonsense: the client would get 500, or 403 for a message.
function test.fails(answer, message)
  expect(answer.outcome == 'failed', message, 'expected failed, got ' .. show(answer))
end

-- gatepost refuses the credentials before the policy sees them: the client would get 400.
function test.refuses(answer, message)
  expect(answer.outcome == 'refused', message, 'expected refused, got ' .. show(answer))
end

-- The identity is in this group.
function test.in_group(answer, group, message)
  for _, name in ipairs(answer.groups or {}) do
    if name == group then
      return
    end
  end
  expect(false, message, 'expected the group ' .. group .. ', got ' .. table.concat(answer.groups or {}, ', '))
end

function test.equal(got, wanted, message)
  expect(got == wanted, message, 'expected ' .. tostring(wanted) .. ', got ' .. tostring(got))
end

function test.truthy(value, message)
  expect(value, message, 'expected something true, got ' .. tostring(value))
end

function test.raises(body, pattern, message)
  local good, fault = pcall(body)
  expect(not good, message, 'expected an error')
  if pattern then
    expect(tostring(fault):find(pattern), message, 'expected an error like ' .. pattern .. ', got ' .. tostring(fault))
  end
end

return test
