-- gatepost test lua/examples/toml_groups_test.lua

local test = require 'gatepost.test'
local policy = test.policy 'toml_groups.lua'

test.case('a user comes with its groups', function()
  local answer = policy:request { user = 'newsletter', password = 'newsletter-2026' }
  test.allows(answer, 'newsletter')
  test.in_group(answer, 'bulk')
  test.in_group(answer, 'eu')
end)

test.case('nobody else gets in', function()
  test.denies(policy:request { user = 'newsletter', password = 'shop-2026' })
  test.denies(policy:request { user = 'nobody', password = 'newsletter-2026' })
end)
