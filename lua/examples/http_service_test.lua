-- ACCOUNT_SERVICE=URL gatepost test lua/examples/http_service_test.lua, where URL knows scott/tiger of tenant acme.

local test = require 'gatepost.test'
local policy = test.policy 'http_service.lua'

test.case('the service says who it is', function()
  local answer = policy:request { user = 'scott', password = 'tiger' }
  test.allows(answer, 'acme')
  test.in_group(answer, 'bulk')
end)

test.case('the service says no', function()
  test.denies(policy:request { user = 'scott', password = 'lion' })
  test.denies(policy:request { user = 'nobody', password = 'tiger' })
end)

test.case('the service is broken', function()
  test.fails(policy:request { user = 'breaks', password = 'it' })
end)
